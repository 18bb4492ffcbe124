# qdbev-deploy on the CPU: train, export, check, evaluate. On a GPU machine install it on the host, or derive from one of
# NVIDIA's TensorRT images and run the last two steps there.
#   docker build -t qdbev-deploy .
#   docker run --rm -v "$PWD/data:/data" qdbev-deploy data synth --out /data/synth
FROM python:3.11-slim-bookworm

# The compiler is for the plugin library's CPU ops; ONNX Runtime and torch want libgomp.
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ libgomp1 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/qdbev-deploy
COPY . .
RUN pip install --no-cache-dir -c constraints.txt torch==2.13.0 \
    && pip install --no-cache-dir -c constraints.txt '.[train,data]'

WORKDIR /data
ENTRYPOINT ["qdbev-deploy"]
CMD ["--help"]
