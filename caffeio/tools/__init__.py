"""What Caffe's other programs do: score, time, image lists to databases, image means."""
