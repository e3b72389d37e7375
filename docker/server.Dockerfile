# The replayring server: no torch, no compiler, no shell scripts; runs as a user without rights.
#
#   docker build -f docker/server.Dockerfile -t replayring-server .
#   docker run -v replay:/data -p 127.0.0.1:50051:50051 replayring-server --insecure
#
# What follows the image's name are flags of `replayring serve`.

ARG PYTHON_IMAGE=python:3.11-slim-bookworm
# What builds may differ from what runs: in the pip.conf that your network needs, say.
ARG BUILD_IMAGE=${PYTHON_IMAGE}

FROM ${BUILD_IMAGE} AS build
# Extras of the package, comma-separated.
ARG EXTRAS=uvloop,metrics
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY proto proto
COPY server server
COPY client client
# The environment gets no pip of its own: nothing is ever installed into a running server.
RUN python -m venv --without-pip /opt/replayring \
 && pip --python /opt/replayring/bin/python install --no-cache-dir ".[${EXTRAS}]"

FROM ${PYTHON_IMAGE}
# The user's number is part of the image's interface: volumes and secrets belong to it, and the
# trainer's image has the same, so that a learner on the server's machine may read its files.
# Named volumes take over owner and mode of the folder they are first mounted on, hence the folders.
RUN groupadd --gid 10001 replayring \
 && useradd --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin replayring \
 && install --directory --owner=replayring --group=replayring --mode=0750 /data \
 && install --directory --owner=replayring --group=replayring --mode=0700 \
      /certs /certs/authority /certs/server /certs/client /certs/reader
COPY --from=build /opt/replayring /opt/replayring
ENV PATH=/opt/replayring/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 10001:10001
VOLUME /data
EXPOSE 50051 9464
STOPSIGNAL SIGTERM
# Health has an address of its own, within the container: so this works with TLS as without.
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s \
  CMD ["replayring", "health", "127.0.0.1:50052"]
# Inside a container, all interfaces means the container's own network. The server cannot see who is
# there and to whom the port is published, so it wants TLS and tokens, or to be told --insecure.
ENTRYPOINT ["replayring", "serve", "--data-dir", "/data", "--listen", "0.0.0.0:50051", \
            "--health-listen", "127.0.0.1:50052"]
CMD []
# Last, since they differ with every commit, and all above would be built again.
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="replayring server" \
      org.opencontainers.image.description="Experience-replay buffer server over gRPC" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"
