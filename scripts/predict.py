"""`supcon-tf predict`, for a checkout that is not installed."""

from supcon_tf.cli.predict import program

if __name__ == "__main__":
    program()
