"""`python -m supcon_tf.cli COMMAND`, the same as `supcon-tf COMMAND`."""

from supcon_tf.cli.main import main

main()
