"""Exported models: written, compared, extended, loaded and queried.

export       a run becomes a bundle; its files and versions are in layout
servable     the graph that is saved; index, tflite, onnx_model and calibration
             make its other parts
comparing    every export against Keras, by reload_export in a process without this package
card         what people read about a bundle
adding       a bundle becomes the next version, with more classes, if added_scores allows it
bundle       a bundle is checked (layout, graphs) and loaded
prediction   classes of image files, from a bundle, a TFLite or ONNX file or a server (remote)
"""
