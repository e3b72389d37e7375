# The replayring server: no torch, no compiler, no shell scripts; runs as a user without rights.
#
#   docker build -f docker/server.Dockerfile -t replayring-server .
#   docker run -v replay:/data -p 127.0.0.1:50051:50051 replayring-server --insecure
#
# What follows the image's name are flags of `replayring serve`.

ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY proto proto
COPY server server
COPY client client
RUN python -m venv /opt/replayring \
 && /opt/replayring/bin/pip install --no-cache-dir ".[uvloop]"

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="replayring server" \
      org.opencontainers.image.description="Experience-replay buffer server over gRPC" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin replayring \
 && install --directory --owner=replayring --group=replayring --mode=0750 /data
COPY --from=build /opt/replayring /opt/replayring
ENV PATH=/opt/replayring/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER replayring
VOLUME /data
EXPOSE 50051
STOPSIGNAL SIGTERM
# Health has an address of its own, within the container: so this works with TLS as without.
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s \
  CMD ["replayring", "health", "127.0.0.1:50052"]
# Inside a container, all interfaces means the container's own network. The server cannot see who is
# there and to whom the port is published, so it wants TLS and tokens, or to be told --insecure.
ENTRYPOINT ["replayring", "serve", "--data-dir", "/data", "--listen", "0.0.0.0:50051", \
            "--health-listen", "127.0.0.1:50052"]
CMD []
