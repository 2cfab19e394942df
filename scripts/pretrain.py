"""`supcon-tf pretrain`, for a checkout that is not installed."""

from supcon_tf.cli.pretrain import program

if __name__ == "__main__":
    program()
