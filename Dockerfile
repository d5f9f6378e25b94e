# gpumon's image: Python, the libraries it needs and gpumon; no shell, no package manager, no compiler. See docs/install.md.
#
#   docker build -t gpumon .                                    an image
#   docker build --target sbom --output sbom .                  its bill of materials, as a file
#
# For a build that can be repeated to the bit give BASE with a digest, APT_ARCHIVE and SOURCE_DATE_EPOCH (docs/install.md).

ARG BASE=docker.io/library/debian:trixie-slim

FROM ${BASE} AS build
# Where Debian's packages come from, as a URL; empty is where the base takes them from. A dated snapshot pins them all.
ARG APT_ARCHIVE=""
RUN if [ -n "$APT_ARCHIVE" ]; then \
      rm -f /etc/apt/sources.list.d/*; \
      echo "deb [check-valid-until=no] $APT_ARCHIVE trixie main" > /etc/apt/sources.list; \
    fi \
 && apt-get update \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends \
      binutils ca-certificates libstdc++6 python3 python3-pip python3-setuptools tzdata
# What was resolved is installed, each file checked by its hash; nothing is compiled.
WORKDIR /build
COPY requirements.lock ./
RUN pip install --no-cache-dir --no-compile --only-binary=:all: --require-hashes --target=/build/packages -r requirements.lock
COPY image/ image/
ARG SOURCE_DATE_EPOCH=0
ENV PYTHONHASHSEED=0
RUN python3 image/rootfs.py packages /out/packages /build/packages \
 && python3 image/rootfs.py system /out/system /out/packages
COPY LICENSE README.md pyproject.toml ./
COPY src/ src/
RUN pip install --no-cache-dir --no-compile --no-deps --no-build-isolation --no-index --target=/build/gpumon . \
 && python3 image/rootfs.py gpumon /out/gpumon /build/gpumon

FROM scratch AS sbom
COPY --from=build /out/gpumon/usr/share/sbom/ /

FROM scratch
# From what changes seldom to what changes with every version.
COPY --from=build /out/system/ /
COPY --from=build /out/packages/ /
COPY --from=build /out/gpumon/ /
# LD_LIBRARY_PATH: libraries that the NVIDIA runtime mounts are found with or without the loader's cache, where Google's
# driver installer and other distributions than Debian have them; the loader itself looks where Debian does.
# HOME: for the settings file, /etc/gpumon/config.toml, whatever the user.
ENV LD_LIBRARY_PATH=/usr/local/nvidia/lib64:/usr/local/nvidia/lib:/usr/lib64 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=utility \
    GPUMON_SERVICE_DATA_DIR=/data \
    HOME=/home/gpumon \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt \
    LANG=C.UTF-8
USER 65532:65532
WORKDIR /data
VOLUME /data
EXPOSE 9090 8010
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=10s --start-period=15s CMD ["/usr/bin/gpumon", "health"]
ENTRYPOINT ["/usr/bin/gpumon"]
CMD ["run"]
ARG VERSION=0.1.0
# The commit, as from: git rev-parse HEAD
ARG REVISION=""
LABEL org.opencontainers.image.title="gpumon" \
      org.opencontainers.image.description="Reads this node's NVIDIA GPUs for Prometheus, OpenTelemetry and people" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.base.name="docker.io/library/debian:trixie-slim" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
