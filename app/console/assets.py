"""Style sheet, script and icon. A file's name holds its hash, so browsers may keep it for good."""

from hashlib import sha256
from pathlib import Path
from typing import Final

from fastapi import Response

from app.errors import NotFoundError

FOLDER: Final = Path(__file__).parent / "static"
TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
HEADERS: Final = {
    "Cache-Control": "public, max-age=31536000, immutable",
    "X-Content-Type-Options": "nosniff",
}


def _named(file: Path) -> str:
    return f"{file.stem}.{sha256(file.read_bytes()).hexdigest()[:12]}{file.suffix}"


# The name of each file in a page's address.
NAMES: Final = {
    file.name: _named(file) for file in sorted(FOLDER.iterdir()) if file.suffix in TYPES
}
_FILES: Final = {
    name: ((FOLDER / file).read_bytes(), TYPES[Path(file).suffix]) for file, name in NAMES.items()
}


def show_asset(name: str) -> Response:
    """A file by its name with the hash."""
    if name not in _FILES:
        raise NotFoundError
    content, media_type = _FILES[name]
    return Response(content, media_type=media_type, headers=HEADERS)
