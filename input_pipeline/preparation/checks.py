"""What a preparation finds out about its records: the manifest, and the page of pairs.

A group, a list of consecutive items of one file, is measured as it is read. Groups of shards that a
killed preparation finished are read from there.
"""

import itertools
from typing import NamedTuple

from input_pipeline.preparation import pairs, shards
from jax_pix2pix.errors import DataError
from jax_pix2pix.evaluation import pairs_page
from jax_pix2pix.runs.known_patients import COLUMNS, MANIFEST
from jax_pix2pix.safety import safe_files
from jax_pix2pix.safety.tables import csv_text

PAGE = "pairs.html"
VOLUME = 3  # slices of a file; if so many do not overlap, it is refused before the others are read


class Place(NamedTuple):
    """Where the records of a group are."""

    split: str
    group: list
    shard: object  # its path
    first: int  # record of the group in the shard


class Checks:
    """Measures groups and writes what they show.

    Args:
        source: Path of the source folder.
        names: TrueNames or Pseudonyms.
        arrays: the Pixels of a record.
        size: its height and width.
        pair: pairs.Pair, or None.
        partners: (an item -> the names of the files of its second array).
    """

    def __init__(self, source, names, arrays, size, pair, partners):
        self._source, self._names, self._partners = source, names, partners
        self._arrays, self._size, self._pair = arrays, size, pair
        self._measured = {}

    def measure(self, group, records):
        """Measures a group as its records are read; called on several threads at once.

        Raises:
            DataError: it is of a volume and another one that do not overlap.
        """
        measured = self._measured[_key(group)] = pairs.measure(records, self._pair)
        if len(group) >= VOLUME:
            self._check(measured, group)

    def write(self, directory, places):
        """Writes the manifest and the page of pairs.

        Args:
            directory: of the prepared data.
            places: a Place for each group, in the order of the records.

        Returns:
            Lines for the user.

        Raises:
            DataError: the pairs of a patient do not overlap.
        """
        for place in places:
            if _key(place.group) not in self._measured:
                self.measure(place.group, self._stored(place, range(len(place.group))))
        self._write_manifest(directory, places)
        lines = self._same_pictures(places)
        return lines + (self._write_page(directory, places) if self._pair else [])

    def _write_manifest(self, directory, places):
        """Writes who is in which split, a row per group."""
        rows = []
        for split, group, *_ in places:
            patient, file = self._shown(group[0])
            rows.append([split, patient, file, len(group), self._measured[_key(group)].pixels])
        safe_files.write(directory / MANIFEST, csv_text(COLUMNS, rows), directory)

    def _same_pictures(self, places):
        prints, split_of = {}, {}
        for split, group, *_ in places:
            item = group[0]
            prints[item.patient, item.file_name] = self._measured[_key(group)].pixels
            split_of[item.patient, item.file_name] = split, self._shown(item)
        same = pairs.same_pictures(prints)
        if not same:
            return []
        (split, (patient, file)), (other_split, (other, other_file)) = (
            split_of[name] for name in same[0]
        )
        return [
            f"warning: {len(same)} pictures are of two patients each, such as {file} of {patient} "
            f"in {split} and {other_file} of {other} in {other_split}: if they are one patient, "
            "name both alike, or remove one"
        ]

    def _write_page(self, directory, places):
        of_row = {}  # in the order of the records
        for place in places:
            of_row.setdefault((place.split, place.group[0].patient), []).append(place)
        rows, poor = [], 0
        for (split, _), found in of_row.items():
            parts = [self._measured[_key(place.group)] for place in found]
            measured = pairs.together(parts)
            self._check(measured, found[0].group)
            rows.append((self._row(split, found, measured), found))
            poor += rows[-1][0].is_poor
        order = {id(row): found for row, found in rows}
        ranked = pairs_page.ranked([row for row, _ in rows])
        for number in pairs_page.chosen(ranked):
            found = order[id(ranked[number])]
            ranked[number] = ranked[number]._replace(picture=self._picture(found))
        name = pairs.overlap_name(self._pair)
        pairs_page.write(
            directory / PAGE,
            f"Pairs of {directory.parent.parent.name}",
            {"pairs": len(rows), f"of these below {pairs.POOR:g} in overlap": poor},
            ranked,
            name,
            self._pair.is_mask,
        )
        if not poor:
            return []
        worst = ranked[0]
        return [
            f"warning: {poor} of {len(rows)} pairs fit poorly ({name} below {pairs.POOR:g}), worst "
            f"{worst.first} and {worst.second} with {worst.overlap:.2f}: look at {PAGE} there"
        ]

    def _row(self, split, found, measured):
        item = found[0].group[0]
        patient, first = self._shown(item)
        second = (self._names.file(item.patient, name) for name in self._partners(item))
        overlap = measured.overlap
        return pairs_page.Row(
            patient,
            split,
            first,
            " and ".join(second),
            len(found),
            sum(len(place.group) for place in found),
            overlap,
            measured.mutual_information,
            overlap is not None and overlap < pairs.POOR,
        )

    def _picture(self, found):
        shown = [(place, k) for place in found for k in self._measured[_key(place.group)].shown]
        records = [self._stored(place, [k])[0] for place, k in pairs.evenly(shown, pairs.SHOWN)]
        firsts, seconds = (
            [pairs.plane_of(record, name) for record in records]
            for name in ("image", self._pair.array)
        )
        bodies = None
        if not self._pair.is_mask:
            bodies = [
                tuple(pairs.body(plane[None])[0] for plane in two)
                for two in zip(firsts, seconds, strict=True)
            ]
        labels = [
            f"slice {place.group[k].slice_index}" for place, k in pairs.evenly(shown, pairs.SHOWN)
        ]
        return pairs_page.picture(firsts, seconds, self._pair.is_mask, bodies, labels)

    def _stored(self, place, numbers):
        positions = [place.first + number for number in numbers]
        return shards.read(place.shard, positions, self._arrays, self._size)

    def _shown(self, item):
        names = self._names
        return names.patient(item.patient), names.file(item.patient, item.file_name)

    def _check(self, measured, group):
        if pairs.lies_apart(measured, self._pair):
            names = group[0].file_name, *self._partners(group[0])
            raise DataError(
                f"{' and '.join(str(self._source / name) for name in names)} do not overlap "
                f"({pairs.overlap_name(self._pair)} {measured.overlap:.2f}): they are not "
                "registered, or of two patients; register or remove them"
            )


def places_of(split, parts, paths):
    """The Place of each group of a split's shards; parts: lists of groups; paths: of the shards."""
    for groups, path in zip(parts, paths, strict=True):
        firsts = itertools.accumulate(map(len, groups), initial=0)
        yield from (Place(split, group, path, first) for group, first in zip(groups, firsts))  # noqa: B905


def _key(group):
    return group[0].file_name, group[0].slice_index
