// What bench_caffe.py calls of a real Caffe: nets from files, their blobs, forward.
#include <string>
#include <vector>

#include <caffe/caffe.hpp>

using caffe::Blob;
using caffe::Net;

extern "C" {

void rc_init() {
  google::InitGoogleLogging("bench_caffe");
  FLAGS_logtostderr = 1;
  FLAGS_minloglevel = 2;
  caffe::Caffe::set_mode(caffe::Caffe::CPU);
}

// The TEST net of a prototxt; weights of a .caffemodel are copied into it unless it is "".
void* rc_net(const char* prototxt, const char* weights) {
  Net<float>* net = new Net<float>(prototxt, caffe::TEST);
  if (*weights) net->CopyTrainedLayersFrom(weights);
  return net;
}

void rc_free(void* net) { delete static_cast<Net<float>*>(net); }

void rc_forward(void* net) { static_cast<Net<float>*>(net)->Forward(); }

// Memory of the net's first input (what = 0) or first output, and its count.
float* rc_blob(void* net, int what, long* count) {
  Net<float>* n = static_cast<Net<float>*>(net);
  Blob<float>* blob = what == 0 ? n->input_blobs()[0] : n->output_blobs()[0];
  *count = blob->count();
  return blob->mutable_cpu_data();
}

}  // extern "C"
