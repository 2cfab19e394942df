"""`supcon-tf write-digits`, for a checkout that is not installed."""

from supcon_tf.cli.write_digits import program

if __name__ == "__main__":
    program()
