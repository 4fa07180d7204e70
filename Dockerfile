# caffeio for CPUs: docker build -t caffeio . && docker run --rm -v "$PWD":/work caffeio show net.prototxt
# What it writes belongs to user 1000; to another one with: docker run --user "$(id -u)" ...
FROM python:3.12-slim AS build
WORKDIR /src
COPY . .
# hadolint ignore=DL3013
RUN pip install --no-cache-dir build && python -m build --wheel --outdir /wheels

FROM python:3.12-slim
# OpenCV's wheel needs no system libraries; torchrun and the other tools of PyTorch come with torch.
COPY --from=build /wheels /wheels
COPY constraints.txt /wheels/
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu \
        --constraint /wheels/constraints.txt "$(ls /wheels/*.whl)[hdf5,leveldb,onnx,plot,safetensors]" \
    && rm -r /wheels && useradd --create-home --uid 1000 caffeio
ENV MPLCONFIGDIR=/tmp/matplotlib
USER 1000
WORKDIR /work
ENTRYPOINT ["caffeio"]
CMD ["--help"]
