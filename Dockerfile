# Two stages: build the wheel with its compiled data plane and pages, then install it where no compiler is.
FROM python:3.11-slim-bookworm AS build
RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev nodejs npm \
       $(test "$(uname -m)" != x86_64 || echo libipsec-mb-dev) \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY web/package.json web/package-lock.json web/
RUN cd web && npm ci --no-audit --no-fund
COPY . .
RUN cd web && npm run build
RUN TERTULIA_REQUIRE_NATIVE=1 pip wheel --no-cache-dir --no-deps --wheel-dir /wheels .

FROM python:3.11-slim-bookworm
RUN apt-get update \
    && apt-get install -y --no-install-recommends $(test "$(uname -m)" != x86_64 || echo libipsec-mb1) \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /wheels /wheels
RUN pip install --no-cache-dir /wheels/*.whl && rm -rf /wheels \
    && useradd --system --create-home --home-dir /var/lib/tertulia tertulia
USER tertulia
WORKDIR /var/lib/tertulia
EXPOSE 7880/tcp 7881/tcp 7882/udp
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:7880/healthz', timeout=2)"]
# Media wants the machine's own network: docker run --network host ...
ENTRYPOINT ["tertulia"]
