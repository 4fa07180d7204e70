"""Follow every link of a built site: files, anchors, pictures; other sites with --external.

Nothing may be loaded from elsewhere: scripts, pictures and styles are the site's own.

Usage: links.py SITE [--external]. The exit code is 1 if a link leads nowhere.
"""

import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from urllib.error import HTTPError
from urllib.parse import unquote, urljoin, urlsplit

GONE = (404, 410)


class Page(HTMLParser):
    """What a page links to, and the anchors that it has."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.loaded: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect href, src, id and name, and what is loaded from other sites."""
        given = dict(attrs)
        loads = tag in ("script", "img", "iframe") or given.get("rel") == "stylesheet"
        place = given.get("src") or given.get("href") or ""
        if loads and urlsplit(place).netloc:
            self.loaded.append(place)
        for name, value in attrs:
            if name in ("href", "src") and value and tag != "link":
                self.links.append(value)
            elif name in ("id", "name") and value:
                self.anchors.add(value)


def read(site: Path) -> dict[Path, Page]:
    """All pages of a site."""
    pages = {}
    for path in sorted(site.rglob("*.html")):
        pages[path.resolve()] = page = Page()
        page.feed(path.read_text(encoding="utf-8"))
    return pages


def broken(site: Path, pages: dict[Path, Page]) -> list[str]:
    """Links inside the site that lead nowhere."""
    found = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = path
            if parts.path:
                base = site.resolve() if parts.path.startswith("/") else path.parent
                target = (base / unquote(parts.path).lstrip("/")).resolve()
                target = target / "index.html" if target.is_dir() else target
            name = f"{path.relative_to(site.resolve())}: {link}"
            if path.name == "404.html":
                continue  # its links are those of the place where it is shown
            if not target.exists():
                found.append(f"{name}: no such file")
                continue
            anchors = pages[target].anchors | {"__search"} if target in pages else None
            if parts.fragment and anchors and unquote(parts.fragment) not in anchors:
                found.append(f"{name}: no such place in the page")
    return found


def gone(url: str) -> str | None:
    """Why a page of another site is not there; None if it is, or if it cannot be told now."""
    request = urllib.request.Request(url, headers={"User-Agent": "Mozilla/5.0 (link check)"})
    try:
        with urllib.request.urlopen(request, timeout=30):
            return None
    except HTTPError as error:
        return f"{error.code}" if error.code in GONE else None
    except OSError:
        return None  # a host that is down today is no broken link


def main(site: str, *options: str) -> int:
    """Print what is broken; return the exit code."""
    pages = read(Path(site))
    found = broken(Path(site), pages)
    for path, page in pages.items():
        found += [f"{path.name}: loads {url} from elsewhere" for url in page.loaded]
    if "--external" in options:
        urls = sorted({
            urljoin(link, urlsplit(link)._replace(fragment="").geturl())
            for page in pages.values() for link in page.links if link.startswith("http")
        })  # fmt: skip
        with ThreadPoolExecutor(8) as pool:
            answers = pool.map(gone, urls)
        found += [f"{url}: {why}" for url, why in zip(urls, answers, strict=True) if why]
    print("\n".join(found) or f"{len(pages)} pages: every link leads somewhere")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
