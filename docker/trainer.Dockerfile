# Actors and learners: the replayring client with torch, and the demo; runs as a user without rights.
#
#   docker build -f docker/trainer.Dockerfile -t replayring-trainer .
#   docker run replayring-trainer demo --role actor --address replay.example.org:50051
#
# What follows the image's name are arguments of `replayring`. For a trainer of your own, begin with
# FROM replayring-trainer, add what it needs, and set another ENTRYPOINT.

ARG PYTHON_IMAGE=python:3.11-slim-bookworm
# What builds may differ from what runs: in the pip.conf that your network needs, say.
ARG BUILD_IMAGE=${PYTHON_IMAGE}

FROM ${BUILD_IMAGE} AS build
# torch comes from here, and without CUDA: a tenth of the size. For a GPU:
#   --build-arg TORCH_INDEX=https://download.pytorch.org/whl/cu130
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# The version that the extra `demo` pins. By itself and first: it is most of the image, and stays in
# the cache however the source changes.
ARG TORCH=torch==2.13.0
RUN python -m venv --without-pip /opt/replayring \
 && pip --python /opt/replayring/bin/python install --no-cache-dir \
      --extra-index-url "${TORCH_INDEX}" "${TORCH}"
ARG EXTRAS=demo
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY proto proto
COPY server server
COPY client client
RUN pip --python /opt/replayring/bin/python install --no-cache-dir ".[${EXTRAS}]"

FROM ${PYTHON_IMAGE}
# The same number as in the server's image: see there.
RUN groupadd --gid 10001 replayring \
 && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin replayring \
 && install --directory --owner=replayring --group=replayring --mode=0750 /output
COPY --from=build /opt/replayring /opt/replayring
# HOME and matplotlib's cache are where a read-only root has a tmpfs.
ENV PATH=/opt/replayring/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp MPLCONFIGDIR=/tmp/matplotlib
USER 10001:10001
WORKDIR /output
STOPSIGNAL SIGTERM
ENTRYPOINT ["replayring"]
CMD ["demo", "--help"]
# Last, since they differ with every commit, and all above would be built again.
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="replayring trainer" \
      org.opencontainers.image.description="Actors and learners for a replayring server" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"
