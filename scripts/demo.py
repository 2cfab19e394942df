"""`supcon-tf demo`, for a checkout that is not installed."""

from supcon_tf.cli.demo import program

if __name__ == "__main__":
    program()
