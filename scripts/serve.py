"""`supcon-tf serve`, for a checkout that is not installed."""

from supcon_tf.cli.serve import program

if __name__ == "__main__":
    program()
