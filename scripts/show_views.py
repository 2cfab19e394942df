"""`supcon-tf show-views`, for a checkout that is not installed."""

from supcon_tf.cli.show_views import program

if __name__ == "__main__":
    program()
