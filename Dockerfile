# docker build --tag pyscheduler:local .
#
# To build without a network, put the wheels of requirements.lock and of hatchling into a folder named wheelhouse/ and add
# --build-arg PIP_ARGS=--no-index.

ARG PYTHON_IMAGE=python:3.12-slim

FROM ${PYTHON_IMAGE} AS build
ARG PIP_ARGS=
WORKDIR /src
COPY . .
RUN python3 -m venv /opt/pyscheduler
# The exact versions that the tests ran with, and then the package itself.
RUN /opt/pyscheduler/bin/python -m pip install --disable-pip-version-check --no-cache-dir --no-compile \
        --find-links wheelhouse ${PIP_ARGS} --no-deps --require-hashes --requirement requirements.lock \
    && /opt/pyscheduler/bin/python -m pip install --disable-pip-version-check --no-cache-dir --no-compile \
        --find-links wheelhouse ${PIP_ARGS} --no-deps .

FROM ${PYTHON_IMAGE}
# By number: a base image need not have the tools that make users, nor a cluster know names.
ARG UID=10001
COPY --from=build /opt/pyscheduler /opt/pyscheduler
RUN mkdir -p /var/lib/pyscheduler && chown ${UID}:${UID} /var/lib/pyscheduler
USER ${UID}:${UID}
ENV PATH=/opt/pyscheduler/bin:/usr/local/bin:/usr/bin:/bin \
    PYTHONUNBUFFERED=1 \
    PYSCHEDULER_STATE_DIR=/var/lib/pyscheduler \
    PYSCHEDULER_HOST=0.0.0.0 \
    PYSCHEDULER_OPERATOR_HOST=0.0.0.0 \
    PYSCHEDULER_LOG_FORMAT=json
# Used by the embedded server only, where no PYSCHEDULER_REDIS_URL is given.
VOLUME /var/lib/pyscheduler
# Nodes, operators. The operators' door has no authentication: publish it on loopback.
EXPOSE 5010 5011
HEALTHCHECK --interval=5s --timeout=4s --start-period=20s --retries=3 \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:5011/ready', timeout=3)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["pyscheduler"]
CMD ["serve"]
