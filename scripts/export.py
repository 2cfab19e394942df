"""`supcon-tf export`, for a checkout that is not installed."""

from supcon_tf.cli.export import program

if __name__ == "__main__":
    program()
