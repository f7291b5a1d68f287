"""Keeps orders from an amount on, and sends each to the path of its country: the README's first plugin, in Python."""

import json

import wit_world.exports
from componentize_py_types import Err
from wit_world.imports.types import Encoding, Kind, Outputs, Part, Plan, Problem, Reject, SetColumn, WantedField


# Every call has a `Transform` of its own; what is to be remembered stands outside.
start = None


class Transform(wit_world.exports.Transform):
    def init(self, ctx):
        global start
        start = json.loads(ctx.config).get("from")
        if not isinstance(start, (int, float)):
            raise Err([Problem(["from"], None, "say from which amount on, such as from = 100")])
        fields = [
            WantedField(Part.VALUE, ["amount"], Kind.DECIMALS, False),
            WantedField(Part.VALUE, ["country"], Kind.TEXTS, False),
        ]
        return Plan(fields, [], None, None, Encoding.RAW, Encoding.RAW, [], [], False, False, None, None)

    def process(self, b):
        amounts, countries = (field.value for field in b.fields)
        inputs, ends, destinations, rejects = [], [], bytearray(), []
        for row in range(len(b.offsets)):
            amount, country = text(amounts, row), text(countries, row)
            if not amount:
                rejects.append(Reject(row, "no-amount", "the order has no amount"))
            elif float(amount) >= start and country:
                inputs.append(row)
                destinations += f"big/{country}".encode()
                ends.append(len(destinations))
        column = SetColumn(ends, bytes(destinations), None, None)
        return Outputs(inputs, column, None, None, None, None, None, None, [], rejects)


def text(column, row):
    """One entry of a column of byte strings; what is null or missing is empty."""
    start = column.ends[row - 1] if row else 0
    return column.data[start:column.ends[row]].decode()
