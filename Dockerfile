# Both stages must have the same interpreter, so they share one base. Another image can take its place:
# docker build --build-context python:3.13-slim-trixie=docker-image://NAME
FROM python:3.13-slim-trixie AS base


FROM base AS build
ENV UV_PYTHON=/usr/local/bin/python3 \
    UV_PYTHON_DOWNLOADS=never \
    UV_PROJECT_ENVIRONMENT=/opt/paasoo-dlr \
    UV_COMPILE_BYTECODE=1 \
    UV_NO_CACHE=1
WORKDIR /build

# The dependencies change less often than the code, so they have a layer of their own.
COPY pyproject.toml uv.lock ./
# pyproject.toml pins the version of uv.
RUN pip install --no-cache-dir "$(sed -n 's/.*"\(uv==[0-9.]*\)".*/\1/p' pyproject.toml)" \
 && uv sync --locked --no-dev --no-install-project
COPY . .
RUN uv sync --locked --no-dev --no-editable


FROM base
# The base image has no byte code of the standard library, and a user without rights there can't keep any: each start
# and each health check would compile it anew.
RUN python -m compileall -q -x 'site-packages|dist-packages|/test/|idlelib' "$(python -c 'import sysconfig; print(sysconfig.get_path("stdlib"))')"
# A fixed uid, so that the owner of a volume stays the same from one image to the next. The group is root's, which is
# that of an arbitrary uid under OpenShift. In a volume that is its own, the service takes all rights from the group.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /var/lib/paasoo-dlr --shell /usr/sbin/nologin paasoo-dlr \
 && install -d -o paasoo-dlr -g root -m 0770 /var/lib/paasoo-dlr
COPY --from=build /opt/paasoo-dlr /opt/paasoo-dlr
ENV PATH=/opt/paasoo-dlr/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    DLR_HOST=0.0.0.0 \
    DLR_DATA_DIR=/var/lib/paasoo-dlr
USER 10001:10001
WORKDIR /var/lib/paasoo-dlr
VOLUME /var/lib/paasoo-dlr
EXPOSE 8000
STOPSIGNAL SIGTERM
# /livez, not /readyz: while the database is away the service takes reports into its spool, and must
# not be restarted. Ignore http_proxy.
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s --start-interval=1s \
    CMD ["python", "-c", "import os, urllib.request as u; u.build_opener(u.ProxyHandler({})).open(f\"http://127.0.0.1:{os.environ.get('DLR_PORT', '').strip() or 8000}/livez\", timeout=2)"]
ENTRYPOINT ["paasoo-dlr"]
CMD ["serve"]
