"""`supcon-tf add-class`, for a checkout that is not installed."""

from supcon_tf.cli.add_class import program

if __name__ == "__main__":
    program()
