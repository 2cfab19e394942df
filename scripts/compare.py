"""`supcon-tf compare`, for a checkout that is not installed."""

from supcon_tf.cli.compare import program

if __name__ == "__main__":
    program()
