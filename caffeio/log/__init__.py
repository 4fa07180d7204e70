"""All that is printed as Caffe prints it: glog lines, nets, debug_info."""
