/** The processes of this machine: from /proc on Linux, from `ps` elsewhere. */
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs';

const HAS_PROC = existsSync('/proc/self/stat');

/**
 * @typedef {object} ProcessEntry
 * @property {number} pid
 * @property {number} parentPid
 * @property {string} state one letter, e.g. `S` for sleeping, `Z` for a zombie
 */

/** @returns {ProcessEntry[]} every process that exists now */
export function listProcesses() {
  return HAS_PROC ? listFromProc() : listFromPs();
}

/**
 * Whether the process exists and is no zombie (an ended process that its parent has not reaped).
 * @param {number} pid
 */
export function isProcessRunning(pid) {
  const entry = listProcesses().find((candidate) => candidate.pid === pid);
  return entry !== undefined && !entry.state.startsWith('Z');
}

/**
 * @param {number} parentPid
 * @returns {number[]}
 */
export function childrenOf(parentPid) {
  return listProcesses()
    .filter((entry) => entry.parentPid === parentPid)
    .map(({ pid }) => pid);
}

/**
 * The command line; on Linux followed by the environment and the working directory. Empty when the
 * process has ended or belongs to another user.
 * @param {number} pid
 */
export function describeProcess(pid) {
  if (!HAS_PROC) {
    return readOrEmpty(() => execFileSync('ps', ['-o', 'command=', '-p', String(pid)], QUIET));
  }
  const parts = [
    readOrEmpty(() => readFileSync(`/proc/${pid}/cmdline`, 'utf8')),
    readOrEmpty(() => readFileSync(`/proc/${pid}/environ`, 'utf8')),
    readOrEmpty(() => readlinkSync(`/proc/${pid}/cwd`)),
  ];
  return parts.join('\0').replaceAll('\0', ' ');
}

/** @type {import('node:child_process').ExecFileSyncOptionsWithStringEncoding} */
const QUIET = { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] };

/** @param {() => string} read */
function readOrEmpty(read) {
  try {
    return read();
  } catch {
    return '';
  }
}

/** @returns {ProcessEntry[]} */
function listFromProc() {
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  return pids.flatMap((pid) => {
    const stat = readOrEmpty(() => readFileSync(`/proc/${pid}/stat`, 'utf8'));
    // The program's name, in parentheses, may contain anything: state and parent follow the last.
    const [state = '', parentPid] = stat.slice(stat.lastIndexOf(') ') + 2).split(' ');
    return stat === '' ? [] : [{ pid: Number(pid), parentPid: Number(parentPid), state }];
  });
}

/** @returns {ProcessEntry[]} */
function listFromPs() {
  const table = execFileSync('ps', ['-A', '-o', 'pid=,ppid=,state='], QUIET);
  const rows = table
    .trim()
    .split('\n')
    .map((row) => row.trim().split(/\s+/));
  return rows.map(([pid, parentPid, state = '']) => ({
    pid: Number(pid),
    parentPid: Number(parentPid),
    state,
  }));
}
