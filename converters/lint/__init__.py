"""Mistakes that Caffe accepts in silence, or dies of late: a rule is a function with a code."""
