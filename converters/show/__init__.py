"""What a Caffe file is: on one screen, as a tree, as data, as a graph, as a page."""
