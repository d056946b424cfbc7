"""Which reason comes with which gRPC code, as the server's source says it."""

import pathlib
import re

SOURCES = pathlib.Path(__file__).resolve().parents[2] / "Sources"


def screaming(code):
    """failedPrecondition is FAILED_PRECONDITION in gRPC's documents."""
    return re.sub(r"(?<=[a-z])([A-Z])", r"_\1", code).upper()


def switch(text, property_name):
    """{case: value} of a computed property that is one switch."""
    (body,) = re.findall(rf"var {property_name}: \w+ \{{\n    switch self \{{\n(.*?)\n    \}}", text, re.DOTALL)
    found = {}
    for cases, value in re.findall(r"case ([^:]+):\s*(\S+)", body):
        for case in re.findall(r"\.(\w+)", cases):
            found[case] = value.strip('".')
    return found


def of_an_enum(path):
    text = (SOURCES / path).read_text()
    codes, reasons = switch(text, "code"), switch(text, "reason")
    assert codes.keys() == reasons.keys() and codes, path
    return {(screaming(codes[case]), reasons[case]) for case in codes}


def server_errors():
    """Every (code, reason) that the server can answer with."""
    replies = (SOURCES / "ReservationService/ErrorReplies.swift").read_text()
    own = re.findall(r'\.(\w+), "([A-Z]+(?:_[A-Z]+)+)"', replies)
    return ({(screaming(code), reason) for code, reason in own} | of_an_enum("GRPC/Rejection.swift")
            | of_an_enum("ReservationService/Authorization.swift"))
