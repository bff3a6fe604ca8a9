# TurboPilot for any processor: llama.cpp has a library for each generation of them, and loads the best one that runs.
#   docker build -t turbopilot .
#   docker run --rm -it -p 18080:18080 -v ./models:/models -e MODEL=/models/model.gguf turbopilot
# docs/deploy.md describes its variables, and Dockerfile.cuda, which is generated from this file.
ARG BUILD_BASE=docker.io/library/debian:bookworm-20260824-slim@sha256:88200866dfff7ea7f5cbcb6ec7c8a701889efe6fe859fe64d6990e4b07ea4171
ARG RUNTIME_BASE=${BUILD_BASE}

# The versions of the distribution's packages are not pinned: its mirrors have only the newest, which has the fixes.
FROM ${RUNTIME_BASE} AS runtime
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libgomp1 libstdc++6 python3 \
    && rm -rf /var/lib/apt/lists/*

FROM ${BUILD_BASE} AS build
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates g++ python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
ARG TURBOPILOT_BACKEND=portable
ARG PIP_INDEX_URL=https://pypi.org/simple
WORKDIR /source
# First what llama.cpp is compiled with, so that a change of our own code does not compile it again.
COPY requirements requirements
COPY scripts/install scripts/
COPY scripts/lib scripts/lib
COPY turbopilot/__init__.py turbopilot/
COPY turbopilot/base turbopilot/base
RUN --mount=type=cache,id=turbopilot-pip,target=/root/.cache/pip \
    scripts/install --dependencies /opt/turbopilot
COPY . .
COPY --from=runtime /var/lib/dpkg/status /tmp/runtime-packages
RUN --mount=type=cache,id=turbopilot-pip,target=/root/.cache/pip \
    scripts/install /opt/turbopilot \
    && TURBOPILOT_VENV=/tmp/sbom scripts/sbom --image /opt/turbopilot /tmp/runtime-packages /opt/turbopilot/sbom.cdx.json

FROM runtime
LABEL org.opencontainers.image.title=TurboPilot \
      org.opencontainers.image.description="Completions for editors, from code models on your own machine" \
      org.opencontainers.image.source=https://github.com/turbopilot/turbopilot \
      org.opencontainers.image.licenses=BSD-3-Clause
COPY --from=build /opt/turbopilot /opt/turbopilot
# Everything that is written: downloads, converted models, temporary files. Any user may be chosen with --user.
RUN useradd --system --uid 10001 --home-dir /cache --shell /usr/sbin/nologin turbopilot \
    && install -d -m 1777 /cache
VOLUME /cache
WORKDIR /cache
ENV HF_HOME=/cache/huggingface \
    PATH=/opt/turbopilot/bin:${PATH} \
    TMPDIR=/cache \
    TURBOPILOT_CACHE=/cache/turbopilot \
    TURBOPILOT_HOST=0.0.0.0
USER 10001
EXPOSE 18080
# Loading a large model, or the first download, takes minutes.
HEALTHCHECK --interval=30s --timeout=10s --start-period=30m CMD ["python", "-c", \
    "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ.get('TURBOPILOT_PORT', 18080)}/health\")"]
ENTRYPOINT ["turbopilot"]
CMD ["serve"]
