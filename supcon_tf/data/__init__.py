"""Images in: data sets, decoding, views."""
