# longva as an image, for a CPU or for NVIDIA GPUs:
#   docker build --tag longva:cpu .
#   docker build --tag longva:cuda --build-arg DEVICE=cuda .
# Of a GPU the host needs the driver and NVIDIA's container toolkit; CUDA's libraries come with torch.
# Versions are those of constraints.txt, which CI passes with. docs/deploying.md says how to run it.
ARG DEVICE=cpu

FROM python:3.13-slim-bookworm AS base
RUN useradd --create-home --uid 1000 longva && install --directory --owner longva /models /films
ENV HF_HOME=/models PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
COPY constraints.txt /constraints.txt

# torch goes first and alone: without an index of its own it brings gigabytes of CUDA's libraries.
FROM base AS torch-cpu
RUN pip install --constraint /constraints.txt --index-url https://download.pytorch.org/whl/cpu "torch>=2.11"

FROM base AS torch-cuda
RUN pip install --constraint /constraints.txt "torch>=2.11"

# The wheel is made apart, so that the image holds no source.
FROM base AS wheel
WORKDIR /source
COPY . .
RUN pip wheel --no-deps --wheel-dir /wheels .

# hadolint does not follow the name: it is a stage above, which has PIP_NO_CACHE_DIR.
# hadolint ignore=DL3006
FROM torch-${DEVICE} AS longva
# hadolint ignore=DL3042
RUN --mount=type=bind,from=wheel,source=/wheels,target=/wheels \
    pip install --constraint /constraints.txt "$(echo /wheels/longva-*.whl)[serve,demo,train,quant]"
USER 1000
WORKDIR /home/longva
EXPOSE 8000
ENTRYPOINT ["longva"]
CMD ["doctor"]
