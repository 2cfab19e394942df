"""`supcon-tf classify`, for a checkout that is not installed."""

from supcon_tf.cli.classify import program

if __name__ == "__main__":
    program()
