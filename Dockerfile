# The service as an image, one target per device:
#
#   docker build --target cpu -t lightmbert:cpu .
#   docker build --target gpu -t lightmbert:gpu .
#
# Both targets hold the student, the serving code and its dependencies; no torch, no compiler,
# nothing of distill/. Layers go from seldom to often changed: dependencies, student, code.
# A change of code reinstalls no dependency: the dependency stages never see app/.

# Override to pull from a mirror or to pin a digest. 3.11 without a patch level, so that a rebuild
# picks up security fixes; Python packages are pinned by constraints.txt.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

# ---- Build stages: none of their layers is shipped ----

FROM ${PYTHON_IMAGE} AS build
ENV VIRTUAL_ENV=/opt/lightmbert \
    PIP_CACHE_DIR=/var/cache/pip
WORKDIR /build
# Without pip: the environment is filled from outside and nothing in it can install more.
RUN python -m venv --without-pip "$VIRTUAL_ENV"
COPY pyproject.toml constraints.txt ./

# pip resolves an extra only of a package it can build, so an empty one stands in for the code:
# the two files that pyproject.toml names, and no app/.
FROM build AS dependencies-cpu
RUN --mount=type=cache,target=/var/cache/pip \
    touch README.md LICENSE \
    && python -m pip --python "$VIRTUAL_ENV" install --constraint constraints.txt ".[cpu]"

# onnxruntime-gpu is built for CUDA 13 and cuDNN 9. NVIDIA publishes these as Python packages, and
# the extras of onnxruntime-gpu name the releases that fit; so both targets share one small base and
# one resolver, instead of a CUDA base image whose tag must be matched by hand and whose Python is
# its distribution's. The driver (libcuda.so.1) is the host's, put in by NVIDIA's container toolkit.
FROM build AS dependencies-gpu
RUN --mount=type=cache,target=/var/cache/pip \
    touch README.md LICENSE \
    && python -m pip --python "$VIRTUAL_ENV" install --constraint constraints.txt ".[gpu]"

FROM build AS wheel
COPY README.md LICENSE ./
COPY app ./app
RUN --mount=type=cache,target=/var/cache/pip \
    python -m pip wheel --no-deps --wheel-dir /wheel .

# ---- What both targets share ----

FROM ${PYTHON_IMAGE} AS runtime
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="LightMBERT" \
      org.opencontainers.image.description="Text embedding and classification in twenty-nine languages" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

# Everything the service reads belongs to root and is not writable by it. /tmp is its home: the only
# place that stays writable on a read-only root, where CUDA keeps its kernel cache.
RUN groupadd --gid 10001 lightmbert \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp \
        --shell /usr/sbin/nologin lightmbert

ENV VIRTUAL_ENV=/opt/lightmbert \
    PATH=/opt/lightmbert/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    LIGHTMBERT_HOST=0.0.0.0 \
    LIGHTMBERT_PORT=8000 \
    LIGHTMBERT_MODEL_DIR=/srv/models/lightmbert-mini
WORKDIR /srv
EXPOSE 8000
STOPSIGNAL SIGTERM

# http.client, not urllib.request: a proxy set for the container must not swallow the probe.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --start-interval=1s --retries=3 \
    CMD ["python", "-c", "import http.client, os, sys; probe = http.client.HTTPConnection('127.0.0.1', int(os.environ['LIGHTMBERT_PORT']), timeout=2); probe.request('GET', '/readyz'); sys.exit(probe.getresponse().status != 200)"]

CMD ["lightmbert", "serve"]

# ---- The targets ----

FROM runtime AS cpu
COPY --from=dependencies-cpu /opt/lightmbert /opt/lightmbert
COPY models/lightmbert-mini /srv/models/lightmbert-mini
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip --python "$VIRTUAL_ENV" install --no-cache-dir --no-index --no-deps --force-reinstall \
        /wheel/*.whl
ENV LIGHTMBERT_DEVICE=cpu
USER 10001:10001

FROM runtime AS gpu
COPY --from=dependencies-gpu /opt/lightmbert /opt/lightmbert
COPY models/lightmbert-mini /srv/models/lightmbert-mini
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip --python "$VIRTUAL_ENV" install --no-cache-dir --no-index --no-deps --force-reinstall \
        /wheel/*.whl
# Where NVIDIA's packages put their libraries. NVIDIA_REQUIRE_CUDA lets the container toolkit refuse
# a driver that is too old, by name, before the service starts.
ENV LIGHTMBERT_DEVICE=cuda \
    LD_LIBRARY_PATH=/opt/lightmbert/lib/python3.11/site-packages/nvidia/cu13/lib:/opt/lightmbert/lib/python3.11/site-packages/nvidia/cudnn/lib \
    NVIDIA_REQUIRE_CUDA="cuda>=13.0"
USER 10001:10001
