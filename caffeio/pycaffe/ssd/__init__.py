"""The nets that SSD's scripts build; scripts import them from caffe.model_libs."""
