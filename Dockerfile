# Two images from one file:
#   docker build --target node -t kvcluster-node .
#   docker build --target operator -t kvcluster-operator .
# BASE_IMAGE is any Debian image with Python 3.11 or later, venv and pip; BUILD_IMAGE the
# same with a C compiler and Python's headers (without: a slower member, nothing else).
ARG BASE_IMAGE=python:3.11-slim-bookworm
ARG BUILD_IMAGE=python:3.11-bookworm

# The dependencies come first, so that a change of the sources does not install them
# again: those of `make lock`, each of the contents that it names.  Only our own wheel is
# built here.
FROM ${BUILD_IMAGE} AS node-build
RUN python3 -m venv --without-pip /opt/kvcluster
COPY node/requirements.txt /build/node.txt
RUN python3 -m pip --python /opt/kvcluster/bin/python install --only-binary=:all: --require-hashes -r /build/node.txt
COPY . /build/
RUN python3 -m pip wheel --no-deps --wheel-dir /wheels /build \
 && python3 -m pip --python /opt/kvcluster/bin/python install --no-deps /wheels/*.whl \
 && cd /opt/kvcluster && rm -rf bin/kvoperator lib/python3*/site-packages/kvoperator

FROM ${BASE_IMAGE} AS operator-build
RUN python3 -m venv --without-pip /opt/kvcluster
COPY operator/requirements.txt /build/operator.txt
RUN python3 -m pip --python /opt/kvcluster/bin/python install --only-binary=:all: --require-hashes -r /build/operator.txt
COPY --from=node-build /wheels /wheels
RUN python3 -m pip --python /opt/kvcluster/bin/python install --no-deps /wheels/*.whl

# The base without what only a build needs, copied into one layer that both
# images share: a removed file would still be in the base's own layers.
FROM ${BASE_IMAGE} AS trimmed
RUN find / -xdev -type d \( -name pip -o -name 'pip-*' -o -name setuptools -o -name 'setuptools-*' \
      -o -name wheel -o -name 'wheel-*' -o -name ensurepip -o -name lib2to3 -o -name idlelib \) \
      -path '*/python3*' -prune -exec rm -rf {} + \
 && rm -rf /usr/bin/pip* /usr/local/bin/pip* /usr/share/python-wheels /usr/share/doc /usr/share/man \
      /usr/share/locale /var/cache/* /var/lib/apt/lists/* /tmp/* \
 && echo 'kvcluster:x:65532:65532::/nonexistent:/usr/sbin/nologin' >> /etc/passwd \
 && echo 'kvcluster:x:65532:' >> /etc/group

FROM scratch AS runtime
COPY --from=trimmed / /
ENV PATH=/opt/kvcluster/bin:/usr/local/bin:/usr/bin:/bin \
    LANG=C.UTF-8 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
WORKDIR /

FROM runtime AS node
COPY --from=node-build /opt/kvcluster /opt/kvcluster
EXPOSE 2379 2380 2381
ENTRYPOINT ["kvnode"]

FROM runtime AS operator
COPY --from=operator-build /opt/kvcluster /opt/kvcluster
EXPOSE 8080
ENTRYPOINT ["kvoperator"]
