# The trainer image for people who have docker; `cargo xtask image` writes the same contents without it.
FROM rust:1.95-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends g++ cmake nasm python3 python3-pip && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
ENV GRAFT_CACHE=/cache
RUN eval "$(cargo xtask env)" \
 && cargo build --release --package graft-trainer \
 && cargo build --release --package graft-tests --bin image \
 && target/release/image target/release/graft-trainer "$LIBTORCH" /image.oci.tar \
 && mkdir /oci /root-fs && tar -xf /image.oci.tar -C /oci \
 && python3 -c "import json; i = json.load(open('/oci/index.json')); b = lambda d: '/oci/blobs/' + d['digest'].replace(':', '/'); print('\n'.join(b(l) for l in json.load(open(b(i['manifests'][0])))['layers']))" \
  | xargs -n 1 tar -C /root-fs -xf

FROM scratch
COPY --from=build /root-fs /
ENV LD_LIBRARY_PATH=/lib
USER 65532:65532
ENTRYPOINT ["/graft-trainer"]
