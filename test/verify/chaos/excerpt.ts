/** The history around a violation, for people: faults, writes and reads of its subject. */
import type { History, Violation } from './history-checker.js';
import { type Subject, unpackReads } from './history.js';

const MAX_READS = 30;
const LEAD_MICROS = 300_000;
/** A fault may matter for this long after its end. */
const FAULT_LEAD_MICROS = 2_000_000;

interface Line {
  readonly at: number;
  readonly text: string;
}

export function excerptOf(violation: Violation, history: History): string {
  const { rule, subject, description, from } = violation;
  const millis = (time: number): string => `${((time - from) / 1000).toFixed(2)} ms`;
  const lines = [
    ...faultLines(violation, history, millis),
    ...writeLines(violation, history),
    ...readLines(violation, history, millis),
  ].sort((a, b) => a.at - b.at);
  const { label } = history.subjects[subject] as Subject;
  return [
    `${rule}: ${label} ${description}`,
    ...lines.map(({ at, text }) => `${millis(at).padStart(14)}  ${text}`),
  ].join('\n');
}

type Format = (time: number) => string;

function faultLines({ from, to }: Violation, { faults }: History, millis: Format): Line[] {
  return faults
    .filter((fault) => fault.from < to && fault.to > from - LEAD_MICROS - FAULT_LEAD_MICROS)
    .map((fault) => ({
      at: fault.from,
      text: `fault  ${fault.kind} ${fault.details}, over at ${millis(fault.to)}`,
    }));
}

function writeLines({ subject, from, to }: Violation, { writes }: History): Line[] {
  const stamps = new Set<number>();
  for (const event of writes) {
    const isOfSubject =
      event.event === 'acknowledged' && event.written.some(([index]) => index === subject);
    if (isOfSubject) stamps.add(event.stamp);
  }
  return writes
    .filter(({ stamp, at }) => stamps.has(stamp) && at > from - LEAD_MICROS && at <= to)
    .map((event) => ({
      at: event.at,
      text: `write  ${JSON.stringify({ ...event, at: undefined })}`,
    }));
}

/** The last reads only. */
function readLines({ subject, from, to }: Violation, { reads }: History, millis: Format): Line[] {
  const lines: Line[] = [];
  for (const packed of reads) {
    for (const read of unpackReads(packed)) {
      const isNear = read.end <= to && read.end > from - LEAD_MICROS;
      if (read.subject !== subject || !isNear) continue;
      const what = `version ${read.version} of write ${read.stamp}`;
      const text = `read   ${what}, until ${millis(read.end)}`;
      lines.push({ at: read.begin, text });
    }
  }
  return lines.sort((a, b) => b.at - a.at).slice(0, MAX_READS);
}
