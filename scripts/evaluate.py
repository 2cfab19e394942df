"""`supcon-tf evaluate`, for a checkout that is not installed."""

from supcon_tf.cli.evaluate import program

if __name__ == "__main__":
    program()
