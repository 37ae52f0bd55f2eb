/** The postcard encoding of signed statements and links: varints, and sequences with their length in front. */
import { type Bytes, concat, utf8, utf8Text } from "./bytes.js";

/** The bytes are not one value of the expected shape. */
export class DecodeError extends Error {
  override readonly name = "DecodeError";
}

/** Reads one value. Every method throws {@link DecodeError} if the bytes end or are not of the expected form. */
export class Reader {
  readonly #bytes: Uint8Array;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  /** The next `length` bytes, copied. */
  bytes(length: number): Bytes {
    if (length > this.#bytes.length - this.#at) throw new DecodeError("the value is cut off");
    const part = new Uint8Array(this.#bytes.subarray(this.#at, this.#at + length));
    this.#at += length;
    return part;
  }

  byte(): number {
    return this.bytes(1)[0] as number;
  }

  /** An unsigned integer up to `max`. Numbers beyond 2^53 - 1 do not occur in valid statements, and are refused. */
  varint(max = Number.MAX_SAFE_INTEGER): number {
    let value = 0;
    let scale = 1;
    for (let index = 0; index < 8; index++) {
      const byte = this.byte();
      value += (byte & 0x7f) * scale;
      if (value > max) throw new DecodeError("a number is out of bounds");
      if (byte < 0x80) {
        if (byte === 0 && index > 0) throw new DecodeError("a number is too long");
        return value;
      }
      scale *= 0x80;
    }
    throw new DecodeError("a number is out of bounds");
  }

  bool(): boolean {
    return this.varint(1) === 1;
  }

  /** A text of at most `max` bytes. */
  text(max: number): string {
    const bytes = this.bytes(this.varint(max));
    try {
      return utf8Text(bytes);
    } catch {
      throw new DecodeError("a text is not UTF-8");
    }
  }

  /** A sequence of at most `max` values. */
  sequence<T>(max: number, read: (reader: Reader) => T): T[] {
    const values: T[] = [];
    for (let left = this.varint(max); left > 0; left--) values.push(read(this));
    return values;
  }

  option<T>(read: (reader: Reader) => T): T | undefined {
    return this.bool() ? read(this) : undefined;
  }

  /** Throws if bytes are left. */
  end(): void {
    if (this.#at !== this.#bytes.length) throw new DecodeError("bytes follow the value");
  }
}

/** Writes one value. */
export class Writer {
  readonly #parts: Uint8Array[] = [];

  bytes(bytes: Uint8Array): this {
    this.#parts.push(bytes);
    return this;
  }

  varint(value: number): this {
    const bytes: number[] = [];
    let rest = value;
    while (rest >= 0x80) {
      bytes.push((rest % 0x80) + 0x80);
      rest = Math.floor(rest / 0x80);
    }
    bytes.push(rest);
    return this.bytes(new Uint8Array(bytes));
  }

  bool(value: boolean): this {
    return this.varint(value ? 1 : 0);
  }

  text(text: string): this {
    const bytes = utf8(text);
    return this.varint(bytes.length).bytes(bytes);
  }

  option<T>(value: T | undefined, write: (writer: this, value: T) => void): this {
    this.bool(value !== undefined);
    if (value !== undefined) write(this, value);
    return this;
  }

  finish(): Bytes {
    return concat(...this.#parts);
  }
}
