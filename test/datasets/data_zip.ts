/** Writes zip archives by hand, the broken kinds included. */
import { crc32, deflateRawSync } from 'node:zlib';

export interface ZipItem {
  name: string;
  content: Buffer | string;
  /** Stored instead of deflated. */
  stored?: boolean;
  /** What the directory claims. */
  claimedSize?: number;
  claimedCrc?: number;
  /** Unix mode, e.g. 0o120777 for a link. */
  mode?: number;
  encrypted?: boolean;
}

export function makeZip(items: readonly ZipItem[]): Buffer {
  const locals: Buffer[] = [];
  const directory: Buffer[] = [];
  let at = 0;
  for (const item of items) {
    const content = Buffer.from(item.content);
    const data = item.stored ? content : deflateRawSync(content);
    const name = Buffer.from(item.name);
    const size = item.claimedSize ?? content.length;
    const crc = item.claimedCrc ?? crc32(content);
    const flags = item.encrypted ? 1 : 0;
    const local = Buffer.alloc(30);
    local.writeUInt32LE(0x04034b50, 0);
    local.writeUInt16LE(20, 4);
    local.writeUInt16LE(flags, 6);
    local.writeUInt16LE(item.stored ? 0 : 8, 8);
    local.writeUInt32LE(crc, 14);
    local.writeUInt32LE(data.length, 18);
    local.writeUInt32LE(size, 22);
    local.writeUInt16LE(name.length, 26);
    locals.push(local, name, data);
    const central = Buffer.alloc(46);
    central.writeUInt32LE(0x02014b50, 0);
    central.writeUInt16LE((3 << 8) | 20, 4); // made on Unix, so that the mode counts
    central.writeUInt16LE(20, 6);
    central.writeUInt16LE(flags, 8);
    central.writeUInt16LE(item.stored ? 0 : 8, 10);
    central.writeUInt32LE(crc, 16);
    central.writeUInt32LE(data.length, 20);
    central.writeUInt32LE(size, 24);
    central.writeUInt16LE(name.length, 28);
    central.writeUInt32LE(((item.mode ?? 0o100644) << 16) >>> 0, 38);
    central.writeUInt32LE(at, 42);
    directory.push(central, name);
    at += 30 + name.length + data.length;
  }
  const end = Buffer.alloc(22);
  const directoryBytes = directory.reduce((sum, part) => sum + part.length, 0);
  end.writeUInt32LE(0x06054b50, 0);
  end.writeUInt16LE(items.length, 8);
  end.writeUInt16LE(items.length, 10);
  end.writeUInt32LE(directoryBytes, 12);
  end.writeUInt32LE(at, 16);
  return Buffer.concat([...locals, ...directory, end]);
}
