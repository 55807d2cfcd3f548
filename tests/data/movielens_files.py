"""Small made-up logs in the two formats of MovieLens-100K; no row of the real data."""

import numpy as np

GENRES = ("Action", "Comedy", "Drama", "Film-Noir", "Sci-Fi")
OCCUPATIONS = ("artist", "doctor", "lawyer")
ORIGINAL_GENRES = (
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime"),
    *("Documentary", "Drama", "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery"),
    *("Romance", "Sci-Fi", "Thriller", "War", "Western"),
)


def made_up(*, users=60, items=80, rows=3000, seed=0):
    """Ratings in which items differ in quality and fame, and users in harshness and taste."""
    rng = np.random.default_rng(seed)
    fame = np.tile(1 / (np.arange(items) + 8), users)
    pairs = rng.choice(users * items, size=rows, replace=False, p=fame / fame.sum())
    user, item = pairs // items, pairs % items
    quality, harsh = rng.normal(size=items), rng.normal(size=users) / 2
    taste, genre = rng.normal(size=(users, len(GENRES))), rng.integers(len(GENRES), size=items)
    score = quality[item] + harsh[user] + taste[user, genre[item]] + rng.normal(size=rows) / 2
    rating = np.clip(np.round(3.6 + score), 1, 5).astype(int)
    timestamp = 880_000_000 + rng.integers(0, rows // 2, size=rows) * 60  # with ties
    return {
        "ratings": [*zip(user + 1, item + 11, rating, timestamp, strict=True)],
        "items": [(i + 11, f"Film {i}", 1950 + i, (GENRES[genre[i]],)) for i in range(items)],
        "users": [
            (u + 1, 18 + u % 50, "FM"[u % 2], OCCUPATIONS[u % 3], "00000") for u in range(users)
        ],
    }


def write_original(folder, log):
    folder.mkdir(parents=True, exist_ok=True)
    _lines(folder / "u.data", ["\t".join(map(str, row)) for row in log["ratings"]])
    lines = []
    for item, title, year, genres in log["items"]:
        flags = [str(int(name in genres)) for name in ORIGINAL_GENRES]
        cells = [str(item), f"{title} ({year})", f"01-Jan-{year}", "", "http://x"]
        lines.append("|".join(cells + flags))
    _lines(folder / "u.item", lines)
    _lines(folder / "u.user", ["|".join(map(str, row)) for row in log["users"]])
    return folder


def write_recbole(folder, log):
    folder.mkdir(parents=True, exist_ok=True)
    _lines(
        folder / "ml-100k.inter",
        ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
        + ["\t".join(map(str, row)) for row in log["ratings"]],
    )
    _lines(
        folder / "ml-100k.item",
        ["item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq"]
        + [
            "\t".join([str(i), title, str(year), " ".join(g)]) for i, title, year, g in log["items"]
        ],
    )
    _lines(
        folder / "ml-100k.user",
        ["user_id:token\tage:token\tgender:token\toccupation:token\tzip_code:token"]
        + ["\t".join(map(str, row)) for row in log["users"]],
    )
    return folder


def _lines(path, lines):
    path.write_text("\n".join(lines) + "\n")
