"""`supcon-tf tune`, for a checkout that is not installed."""

from supcon_tf.cli.tune import program

if __name__ == "__main__":
    program()
