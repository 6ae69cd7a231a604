"""Values as texts write them, made up by a seed, and what each means in its type.

`exact` says it with Python's integers, decimals, fractions and days alone, so that no reader of text is trusted here. Instants, days and
times of day are numbers, in the unit of their type.
"""

import datetime
import decimal
import fractions
import json
import math
import re
import struct

import pyarrow as pa

EXACT = decimal.Context(prec=2000)
UNITS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
# A time zone, or none, and what DuckDB calls its timestamps of each unit.
ZONES = {"": None, "_utc": "UTC", "_offset": "+05:30"}
TIMESTAMPS = {"s": "TIMESTAMP_S", "ms": "TIMESTAMP_MS", "us": "TIMESTAMP", "ns": "TIMESTAMP_NS"}

# Each type and what DuckDB calls it, where it has one like it.
SCALARS = {
    "int8": (pa.int8(), "TINYINT"), "int16": (pa.int16(), "SMALLINT"), "int32": (pa.int32(), "INTEGER"),
    "int64": (pa.int64(), "BIGINT"), "uint8": (pa.uint8(), "UTINYINT"), "uint16": (pa.uint16(), "USMALLINT"),
    "uint32": (pa.uint32(), "UINTEGER"), "uint64": (pa.uint64(), "UBIGINT"),
    "float16": (pa.float16(), None), "float32": (pa.float32(), "FLOAT"), "float64": (pa.float64(), "DOUBLE"),
    **{f"decimal_{p}_{s}": (pa.decimal128(p, s), f"DECIMAL({p},{s})") for p, s in [(1, 0), (5, 5), (20, 4), (38, 0), (38, 10), (38, 38)]},
    "decimal_50_20": (pa.decimal256(50, 20), None), "decimal_76_0": (pa.decimal256(76, 0), None),
    "text": (pa.utf8(), "VARCHAR"), "large_text": (pa.large_utf8(), "VARCHAR"), "bool": (pa.bool_(), "BOOLEAN"),
    "date32": (pa.date32(), "DATE"), "date64": (pa.date64(), "DATE"),
    "time_s": (pa.time32("s"), "TIME"), "time_ms": (pa.time32("ms"), "TIME"), "time_us": (pa.time64("us"), "TIME"),
    "time_ns": (pa.time64("ns"), None),
    **{
        f"timestamp_{unit}{name}": (pa.timestamp(unit, zone), TIMESTAMPS[unit] if zone is None else "TIMESTAMPTZ" if unit != "ns" else None)
        for unit in UNITS for name, zone in ZONES.items()
    },
}


def nested(rng, depth=0):
    """A list or an object of anything."""
    kind = rng.choice(["list", "large_list", "struct", "struct", "fixed"])
    if kind == "fixed":
        return pa.list_(rng.choice([pa.float32(), pa.int64()]), 2)

    def inner():
        return nested(rng, depth + 1) if depth < 2 and rng.random() < 0.3 else SCALARS[rng.choice(sorted(SCALARS))][0]

    if kind == "struct":
        return pa.struct([(name, inner()) for name in "abc"[: rng.randint(1, 3)]])
    return pa.large_list(inner()) if kind == "large_list" else pa.list_(inner())


def is_list(arrow):
    return pa.types.is_list(arrow) or pa.types.is_large_list(arrow) or pa.types.is_fixed_size_list(arrow)


def is_text(arrow):
    return pa.types.is_string(arrow) or pa.types.is_large_string(arrow)


def bounds(arrow):
    bits = arrow.bit_width
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if pa.types.is_signed_integer(arrow) else (0, 2**bits - 1)


def number(rng):
    """A number's text, near the edges where types end."""
    edge = rng.choice([0, 1, 2**7, 2**8, 2**24, 2**31, 2**32, 2**53, 2**63, 2**64, 10**15, 10**16, 10**20])
    whole = str(edge + rng.randint(-2, 2)) if rng.random() < 0.7 else str(rng.randint(0, 10 ** rng.randint(1, 25)))
    text = whole.lstrip("-")
    if rng.random() < 0.4:
        text += "." + "".join(rng.choice("0012345678999") for _ in range(rng.randint(1, 8)))
    if rng.random() < 0.25:
        text += f"{rng.choice('eE')}{rng.choice(['', '+', '-'])}{rng.choice([0, 1, 2, 3, 10, 22, 38, 308, 400])}"
    return rng.choice(["", "", "-"]) + text


def whole_number(arrow, rng):
    low, high = bounds(arrow)
    if rng.random() < 0.6:
        text = str(rng.choice([low, high, 0, rng.randint(low, high)]) + rng.choice([0, 0, 0, 1, -1]))
        return text + rng.choice(["", "", "", ".0", "e0", "0e-1"])
    return rng.choice([number(rng), "-0", "+1", "007", "1_000", "1,5", " 1", "0x10"])


def decimal_number(arrow, rng):
    """One with all its digits, with fewer, or with one too many."""
    precision, scale = arrow.precision, arrow.scale
    count = rng.choice([precision, precision, precision + 1, rng.randint(1, precision)])
    digits = rng.choice(["9" * count, "".join(rng.choice("0123456789") for _ in range(count))])
    point = rng.choice([scale, scale, scale, rng.randint(0, scale)])
    digits = digits.rjust(point + 1, "0")
    whole, fraction = digits[: len(digits) - point], digits[len(digits) - point :]
    text = f"{whole}.{fraction}" if fraction else whole
    if rng.random() < 0.2:
        text = f"{int(digits)}E-{point}"
    if rng.random() < 0.2 and "E" not in text:
        text += "00" if "." in text else ".00"
    return rng.choice(["", "", "-", "-", "+"]) + text if rng.random() < 0.85 else number(rng)


# How a float is packed, its bits, what is infinite as bits, the largest number, and where numbers begin that become infinite.
FLOATS = {
    16: ("<e", "<h", 0x7C00, 65504.0, 65520),
    32: ("<f", "<i", 0x7F800000, 3.4028234663852886e38, 2**128 - 2**103),
    64: ("<d", "<q", 0x7FF0000000000000, 1.7976931348623157e308, 2**1024 - 2**970),
}
SPECIAL = {"NaN", "nan", "Infinity", "+Infinity", "inf", "+inf", "-Infinity", "-inf"}


def float_number(arrow, rng):
    pack, bits, infinite, _, _ = FLOATS[arrow.bit_width]
    roll = rng.random()
    if roll < 0.2:
        return tie(arrow, rng)
    if roll < 0.5:
        # Its shortest form, or all digits of it.
        value = struct.unpack(pack, struct.pack(bits, rng.randint(0, infinite - 1)))[0]
        return rng.choice(["", "-"]) + rng.choice([repr(value), f"{value:.17g}", f"{value:E}", f"{decimal.Decimal(value):f}"[:400]])
    if roll < 0.7:
        return rng.choice([*sorted(SPECIAL), "NAN", "-0", "-0.0", "0e-999", "4.9e-324", "1.7976931348623157e308", "2e-400", ".5", "5."])
    return number(rng)


def tie(arrow, rng):
    """A number in the middle of two floats, or a little beside it."""
    pack, bits, infinite, _, _ = FLOATS[arrow.bit_width]
    at = rng.randint(0, infinite - 2)
    low, high = (decimal.Decimal(struct.unpack(pack, struct.pack(bits, n))[0]) for n in (at, at + 1))
    middle = EXACT.divide(EXACT.add(low, high), 2)
    little = decimal.Decimal(rng.choice([0, 1, -1])).scaleb(middle.adjusted() - rng.choice([30, 60]))
    return f"{EXACT.add(middle, little):E}"


def clock(rng):
    text = f"{rng.choice([0, 12, 23, 23, 24]):02}:{rng.choice([0, 59, 59, 60]):02}"
    if rng.random() < 0.1:
        return text
    text += f":{rng.choice([0, 30, 59, 59, 60]):02}"
    if rng.random() < 0.6:
        text += "." + "".join(rng.choice("0123456789") for _ in range(rng.choice([1, 3, 3, 6, 6, 7, 9]))) + rng.choice(["", "", "000"])
    return text


def moment(arrow, rng):
    """A date's, a time's or an instant's text, good ones mostly."""
    if rng.random() < 0.06:
        return rng.choice([number(rng), "01/02/2026", "2026-1-2", "20260102", "2026-W01-1", "now", "infinity", " 2026-01-02"])
    if pa.types.is_time(arrow):
        return clock(rng)
    year = rng.choice([0, 1, 1600, 1677, 1899, 1900, 1969, 1970, 2000, 2024, 2026, 2262, 9999])
    text = f"{year:04}-{rng.randint(1, 12):02}-{rng.choice([1, 15, 28, 29, 30, 31]):02}"
    if rng.random() < (0.8 if pa.types.is_date(arrow) else 0.1):
        return text
    text += rng.choice("TT t") + clock(rng)
    offsets = ["Z", "z", "+00:00", "-05:00", "+05:30", "+0530", "+05", "-00:00", "+14:00", "+24:00", " UTC"]
    wants = pa.types.is_timestamp(arrow) and arrow.tz
    return text + (rng.choice(offsets) if rng.random() < (0.9 if wants else 0.1) else "")


def words(rng):
    """A text with what parsers stumble over."""
    parts = ["a", "é", "\u00a0", " ", '"', ",", "\n", "\r\n", "'", "null", "NULL", "NaN", "\\", "𝄞", "0", "\t", ";", "1.50", "true", "\ufeff"]
    return "".join(rng.choice(parts) for _ in range(rng.randint(0, 5)))


def generate(arrow, rng):
    if is_text(arrow):
        return words(rng)
    if pa.types.is_boolean(arrow):
        return rng.choice(["true", "false", "TRUE", "True", "tRue", "1", "0", "yes", "t", "FALSE", "false", "False"])
    if pa.types.is_temporal(arrow):
        return moment(arrow, rng)
    of = {pa.types.is_integer: whole_number, pa.types.is_decimal: decimal_number}
    return next((make for is_it, make in of.items() if is_it(arrow)), float_number)(arrow, rng)


JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")


def json_text(arrow, rng):
    """A value as JSON writes it; not always one of the type."""
    roll = rng.random()
    if roll < 0.08:
        return "null"
    if roll < 0.1:
        return rng.choice(["1", '"x"', "{}", "[]", "true", "[[1]]", '{"a":{}}'])
    if is_list(arrow):
        fixed = arrow.list_size if pa.types.is_fixed_size_list(arrow) else None
        count = rng.randint(0, 3) if fixed is None or rng.random() < 0.1 else fixed
        return "[" + ", ".join(json_text(arrow.value_type, rng) for _ in range(count)) + "]"
    if pa.types.is_struct(arrow):
        types = {field.name: field.type for field in arrow}
        names = list(types)
        rng.shuffle(names)
        roll = rng.random()
        names = names[1:] if roll < 0.2 else names + [rng.choice([names[0], "z"])] if roll < 0.25 else names
        return "{" + ", ".join(f'"{n}": {json_text(types.get(n, pa.int64()), rng)}' for n in names) + "}"
    text = generate(arrow, rng)
    is_bare = text in ("true", "false") if pa.types.is_boolean(arrow) else JSON_NUMBER.fullmatch(text) and rng.random() < 0.7
    return text if is_bare else json.dumps(text, ensure_ascii=rng.random() < 0.5)


def spell(arrow, fmt, rng):
    """How a value stands in a file, and its text: as a plain or a quoted field, or as JSON. Of what means nothing a part."""
    for _ in range(20):
        spelling, text = spell_once(arrow, fmt, rng)
        try:
            exact(arrow, spelling, text)
        except ValueError:
            if rng.random() < 0.9:
                continue
        return spelling, text
    return "null", ""


def spell_once(arrow, fmt, rng):
    if fmt == "ndjson":
        return ("twice" if rng.random() < 0.02 else "json"), json_text(arrow, rng)
    if rng.random() < 0.08:
        return rng.choice(["plain", "quoted"]), ""
    text = generate(arrow, rng)
    is_plain = text != "" and not re.search(r'[",\r\n]', text)
    return ("plain" if is_plain and rng.random() < 0.6 else "quoted"), text


def fail(text):
    raise ValueError(text)


class Number(str):
    """A number of a JSON text, every digit of it."""


def members(pairs):
    """The members of an object, unless a name stands twice."""
    return dict(pairs) if len({name for name, _ in pairs}) == len(pairs) else fail(pairs)


def exact(arrow, spelling, text):
    """What the text means in the type; `ValueError` when no value of the type is that."""
    if spelling == "twice":
        fail(text)
    if spelling == "json":
        return of_json(arrow, json.loads(text, object_pairs_hook=members, parse_int=Number, parse_float=Number))
    # Whoever quotes every field writes a null like this; no other type has an empty value.
    if text == "" and (spelling in ("plain", "null") or not is_text(arrow)):
        return None
    if pa.types.is_boolean(arrow):
        return text.lower() == "true" if text in ("true", "True", "TRUE", "false", "False", "FALSE") else fail(text)
    return of_text(arrow, text)


def of_json(arrow, value):
    if value is None:
        return None
    if is_list(arrow):
        fixed = arrow.list_size if pa.types.is_fixed_size_list(arrow) else None
        if not isinstance(value, list) or fixed not in (None, len(value)):
            fail(value)
        return [of_json(arrow.value_type, item) for item in value]
    if pa.types.is_struct(arrow):
        types = {field.name: field.type for field in arrow}
        if not isinstance(value, dict):
            fail(value)
        given = {name: of_json(types[name] if name in types else fail(name), inner) for name, inner in value.items()}
        return {name: given.get(name) for name in types}
    if isinstance(value, (list, dict)) or isinstance(value, bool) != pa.types.is_boolean(arrow):
        fail(value)
    if isinstance(value, Number) and (is_text(arrow) or pa.types.is_temporal(arrow)):
        fail(value)
    return value if isinstance(value, bool) else of_text(arrow, str(value))


def of_text(arrow, text):
    if is_text(arrow):
        return text
    if pa.types.is_temporal(arrow):
        return of_moment(arrow, text)
    if pa.types.is_floating(arrow) and text in SPECIAL:
        return float(text)
    if not re.fullmatch(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?", text):
        fail(text)
    value = EXACT.create_decimal(text)
    if pa.types.is_floating(arrow):
        found = nearest(arrow, value)
        # A float that becomes nothing or everything is refused, and so is an integer, written as one, that is not what it becomes.
        if math.isinf(found) or (found == 0) != (value == 0) or (re.fullmatch(r"[+-]?[0-9]+", text) and int(found) != value):
            fail(text)
        return found
    if pa.types.is_decimal(arrow):
        scaled = value.scaleb(arrow.scale, context=EXACT)
        if scaled != scaled.to_integral_value() or scaled.copy_abs() >= 10**arrow.precision:
            fail(text)
        return value.quantize(decimal.Decimal(1).scaleb(-arrow.scale), context=EXACT)
    low, high = bounds(arrow)
    return int(value) if value == value.to_integral_value() and low <= value <= high else fail(text)


def nearest(arrow, value):
    """The float nearest to an exact number, the even one of two."""
    pack, bits, infinite, most, overflow = FLOATS[arrow.bit_width]
    size = abs(fractions.Fraction(value))
    if size >= overflow:
        return math.inf
    near = struct.unpack(bits, struct.pack(pack, min(float(size), most)))[0]
    around = [n for n in (near - 1, near, near + 1) if 0 <= n < infinite]
    floats = {n: struct.unpack(pack, struct.pack(bits, n))[0] for n in around}
    best = min(around, key=lambda n: (abs(fractions.Fraction(floats[n]) - size), n & 1))
    return math.copysign(floats[best], -1 if value.is_signed() else 1)


def of_day(text):
    """Days since 1970. Python's calendar begins with the year 1, and repeats itself after 400."""
    year, rest = int(text[:4]), text[4:]
    later = datetime.date.fromisoformat(f"{year + 400 if year < 400 else year:04}{rest}")
    return later.toordinal() - (146097 if year < 400 else 0) - datetime.date(1970, 1, 1).toordinal()


CLOCK = r"([01][0-9]|2[0-3]):([0-5][0-9])(?::([0-5][0-9])(?:\.([0-9]+))?)?"
DAY = r"([0-9]{4}-[0-9]{2}-[0-9]{2})"


def of_clock(unit, hours, minutes, seconds, fraction):
    digits = len(str(UNITS[unit])) - 1
    fraction = (fraction or "").ljust(digits, "0")
    if fraction[digits:].strip("0"):
        fail(fraction)
    whole = int(hours) * 3600 + int(minutes) * 60 + int(seconds or 0)
    return whole * UNITS[unit] + int(fraction[:digits] or 0)


def of_moment(arrow, text):
    if pa.types.is_date(arrow):
        days = of_day(text) if re.fullmatch(DAY, text) else fail(text)
        return days * (86_400_000 if arrow == pa.date64() else 1)
    if pa.types.is_time(arrow):
        found = re.fullmatch(CLOCK, text) or fail(text)
        return of_clock(arrow.unit, *found.groups())
    found = re.fullmatch(rf"{DAY}(?:[Tt ]{CLOCK}(Z|z|[+-](?:[01][0-9]|2[0-3])(?::?[0-5][0-9])?)?)?", text) or fail(text)
    day, *time, offset = found.groups()
    if (offset is None) == bool(arrow.tz):
        fail(text)
    at = of_day(day) * 86400 * UNITS[arrow.unit] + (of_clock(arrow.unit, *time) if time[0] else 0)
    if offset and offset not in "Zz":
        digits = offset[1:].replace(":", "").ljust(4, "0")
        seconds = int(digits[:2]) * 3600 + int(digits[2:]) * 60
        at -= (seconds if offset[0] == "+" else -seconds) * UNITS[arrow.unit]
    return at if -(2**63) <= at < 2**63 else fail(text)
