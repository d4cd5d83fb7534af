"""Damaged image files of every format that Pillow writes: python .ci/torture.py --images N, or this file alone.

A change ends well if the answer is an image, or one sentence that names the file. A trial makes 100 changes of one
format in a process of its own, so that a crash or a hang of a decoder is a finding as well.
"""

import io
import struct
import sys
import time
import warnings
from pathlib import Path

import torture_tools as tools

CHANGES = 100  # of a trial
SLOW = 20  # seconds that one file may take
KINDS = ({}, {'mode': 'L'}, {'mode': 'P'}, {'mode': 'RGBA'}, {'mode': '1'}, {'mode': 'CMYK'}, {'mode': 'I;16'})
OPTIONS = ({}, {'progressive': True}, {'compression': 'tiff_lzw'}, {'compression': 'jpeg'}, {'lossless': True},
           {'rle': True}, {'interlace': True})


def exif(draw):
    """Notes of a camera: the orientation, and one of a random kind."""
    notes = [(0x0112, 3, 1, struct.pack('<HH', draw.randrange(10), 0)),
             (draw.randrange(0x0100, 0xFFFF), draw.randrange(15), draw.choice((0, 1, 2, 9, 70_000)), draw.randbytes(4))]
    body = b''.join(struct.pack('<HHI', *note[:3]) + note[3] for note in sorted(notes))
    return b'Exif\0\0II*\0' + struct.pack('<IH', 8, len(notes)) + body + bytes(4)


def formats():
    """The names of all formats that Pillow writes and reads."""
    from PIL import Image
    Image.init()
    return [name for name in sorted({*Image.SAVE} & {*Image.OPEN, 'MPO'}) if encoded(name, tools.draw('images', 0))]


def encoded(name, draw):
    """A whole file of a format, with notes of a camera where it takes them; nothing if Pillow cannot make it."""
    from PIL import Image
    for _ in range(20):
        size, file = (draw.randrange(1, 40), draw.randrange(1, 40)), io.BytesIO()
        picture = Image.frombytes('RGB', size, draw.randbytes(3 * size[0] * size[1]))
        mode = draw.choice(KINDS).get('mode', 'RGB')
        try:
            picture = Image.new(mode, size, draw.randrange(60_000)) if mode == 'I;16' else picture.convert(mode)
            more = {'append_images': [picture], 'save_all': True} if name == 'MPO' or not draw.randrange(9) else {}
            notes = {} if name == 'AVIF' else {'exif': exif(draw)}  # its encoder dies of strange ones
            picture.save(file, name, **notes, **draw.choice(OPTIONS), **more)
        except Exception:
            continue  # not every format has every kind
        return file.getvalue()
    return b''


def changed(raw, draw):
    """A damaged copy: bytes changed, cut, moved, doubled, put in; mostly at the beginning, where the structure is."""
    raw = bytearray(raw)
    for _ in range(draw.choice((1, 1, 1, 2, 4, 16))):
        at = draw.randrange(max(1, len(raw) if draw.random() < 0.4 else min(len(raw), 200)))
        length = draw.choice((1, 2, 4, 8, 64))
        kind = draw.randrange(7)
        if kind < 3:
            raw[at:at + length] = (draw.randbytes(length), bytes(length), b'\xff' * length)[kind]
        elif kind == 3:
            del raw[at:at + length]
        elif kind == 4:
            raw[at:at] = raw[at:at + length]
        elif kind == 5:
            raw[at:at + 1] = bytes([raw[at] ^ 1 << draw.randrange(8)]) if at < len(raw) else b''
        else:
            del raw[at + length:]
    return bytes(raw)


class Images:
    """Trials that damage files of one format each, in turn."""

    def __init__(self, parent):
        self.parent, self.formats = parent, formats()

    def trial(self, number, tally):
        """The format, and findings."""
        name, path = self.formats[number % len(self.formats)], self.parent / f'{number}.img'
        done = tools.run(lambda: self.read(name, number, path), self.parent)
        crash = [('tracebacks', f'{done.said[-300:]!r} (exit code {done.code})')] if done.code else []
        findings = crash or [('silently wrong', line) for line in done.out.splitlines()]
        path.unlink(missing_ok=True)
        return f'{CHANGES} changes of {name}', findings

    def read(self, name, number, path):
        """Damage files and decode them; prints what is wrong."""
        draw = tools.draw(f'images {name}', number)
        whole = [encoded(name, draw) for _ in range(10)]
        for change in range(CHANGES):
            path.write_bytes(changed(draw.choice(whole), draw))
            begun = time.monotonic()
            for text in complaint(path):
                print(f'{name}, change {change}: {text}', flush=True)
            if time.monotonic() - begun > SLOW:
                print(f'{name}, change {change}: took {time.monotonic() - begun:.0f} s', flush=True)
        return 0


def complaint(path):
    """What is wrong with how a file was decoded, if anything is. (libtiff prints lines of its own; they are let be.)"""
    from binenc.datasets import decode_all
    from binenc.errors import UserError
    with warnings.catch_warnings(record=True) as noise:
        warnings.simplefilter('always')
        try:
            images = decode_all([path])
            if images.dtype != 'uint8' or images.ndim != 4 or images.shape[1] not in (1, 3):
                yield f'no image: {images.shape}'
        except UserError as error:
            if '\n' in str(error) or path.name not in str(error):
                yield f'not one sentence with its name: {error}'
        except Exception as error:
            yield f'{type(error).__name__}: {error}'
    yield from (f'warns: {warning.message}' for warning in noise)


def main(count):
    """Try `count` trials; returns the number of findings."""
    from torture import torture
    tally = torture('images', count)
    print(tally.line(f'images, {CHANGES} changes each'))
    return sum(tally.found.values())


if __name__ == '__main__':
    sys.path.insert(0, str(Path(__file__).parents[1])) # the library of this repository
    sys.exit(int(bool(main(int(sys.argv[1]) if len(sys.argv) > 1 else 345))))
