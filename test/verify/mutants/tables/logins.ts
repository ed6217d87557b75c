/** What slows down those who guess passwords and tokens, and recognises those who do not. */
import type { Mutant } from '../mutant.js';

const throttle = {
  file: 'src/auth/throttling/login-throttle.service.ts',
  specs: ['test/auth/throttling/login-throttle.spec.ts'],
};
const devices = {
  file: 'src/auth/throttling/device-tokens.service.ts',
  specs: ['test/auth/throttling/device-tokens.spec.ts'],
};
const token = {
  file: 'src/auth/sessions/token.ts',
  specs: ['test/auth/sessions/token.spec.ts'],
};
const queue = {
  file: 'src/platform/http/bounds/fair-queue.ts',
  specs: ['test/auth/passwords/hashing-queue.spec.ts'],
};
export const LOGIN_MUTANTS: readonly Mutant[] = [
  {
    ...throttle,
    name: 'success-empties-shared-counters',
    without: 'an attacker empties the counter of a network by logging in to an account of his own',
    text: "'nameAndNetwork', 'device', 'session'",
    replacement: "'nameAndNetwork', 'device', 'session', 'network', 'name', 'devicesOfUser'",
    tests: 'failed logins at one node',
  },
  {
    ...throttle,
    name: 'counter-of-a-name-emptied',
    without: 'the login of a user empties the counter of all who guess its password',
    text: "'nameAndNetwork', 'device', 'session'",
    replacement: "'nameAndNetwork', 'device', 'session', 'name'",
  },
  {
    ...throttle,
    name: 'counter-of-devices-emptied',
    without: 'a login from one device of a user empties the counter of all of them',
    text: "'nameAndNetwork', 'device', 'session'",
    replacement: "'nameAndNetwork', 'device', 'session', 'devicesOfUser'",
  },
  {
    ...throttle,
    name: 'counters-of-all-kinds-in-one',
    without: 'a user who is named like a network shares its counter',
    text: '.update(`${kind} ${text}`)',
    replacement: '.update(kind === null ? kind : text)',
    tests: 'LoginThrottle',
  },
  {
    ...throttle,
    name: 'counters-purged-while-they-count',
    without: 'the purge removes counters that are not empty',
    text: 'WHERE long_drained_at < now() AND short_drained_at < now()',
    replacement: 'WHERE short_drained_at < now()',
    tests: 'LoginThrottle',
  },
  {
    ...throttle,
    name: 'counters-purged-while-the-short-one-counts',
    without: 'the purge removes counters whose short limit is not empty',
    text: 'WHERE long_drained_at < now() AND short_drained_at < now()',
    replacement: 'WHERE long_drained_at < now()',
    tests: 'LoginThrottle',
  },
  {
    ...throttle,
    name: 'wait-without-retry-after-of-a-second',
    without: 'a wait of less than a second is announced as none',
    text: 'String(Math.max(1, Math.ceil(waitSeconds)))',
    replacement: 'String(Math.floor(waitSeconds))',
  },
  {
    ...devices,
    name: 'device-token-unsigned',
    without: 'everybody writes tokens of known devices',
    text: 'if (!isGenuine) return undefined;',
    replacement: 'void isGenuine;',
  },
  {
    ...devices,
    name: 'device-token-for-ever',
    without: 'a device that was not used for years is known',
    text: 'if (isTooOld) return undefined;',
    replacement: 'void isTooOld;',
  },
  {
    ...devices,
    name: 'device-shared-by-users',
    without: 'users of one device share its counter',
    text: 'const isSameUser = known?.userId === userId;',
    replacement: 'const isSameUser = known !== undefined;',
  },
  {
    ...devices,
    name: 'device-token-of-another-length',
    without: 'a token of another length ends in a server error',
    text: 'signature.length === SIGNATURE_BYTES && timingSafeEqual',
    replacement: 'timingSafeEqual',
  },
  {
    ...devices,
    name: 'device-key-failure-remembered',
    without: 'a process that could not read the key once recognises no device until it restarts',
    text: '      this.key = undefined;\n',
    replacement: '',
  },
  {
    ...token,
    name: 'token-checksum-not-compared',
    without: 'guessed tokens are looked up',
    text: "(random !== '' && checksum === checksumOf(random))",
    replacement: "(random !== '' && checksum !== undefined && checksumOf(random) !== '')",
  },
  {
    ...token,
    name: 'token-of-earlier-releases-refused',
    without: 'sessions of an earlier release end with the upgrade',
    text: 'return isOfEarlierRelease || (',
    replacement: 'return (!isOfEarlierRelease || false) && (',
  },
  {
    ...queue,
    name: 'hashing-share-unbounded',
    without: 'one caller fills a lane of the hashing queue',
    text: 'if (ofCaller >= maxWaitingOfCaller * this.places) throw overloaded();',
    replacement: 'void maxWaitingOfCaller;',
  },
  {
    ...queue,
    name: 'hashing-lane-unbounded',
    without: 'any number of requests wait in a lane',
    text: 'if (isFull) this.displaceFor(ofCaller);',
    replacement: 'void isFull;',
  },
  {
    ...queue,
    name: 'hashing-lane-never-displaces',
    without: 'a few callers keep all others out of a lane',
    text: 'if (heaviest === undefined || heaviest[1] <= ofNewCaller + 1) throw overloaded();',
    replacement: 'if (heaviest !== undefined || ofNewCaller > 0) throw overloaded();',
  },
  {
    ...queue,
    name: 'hashing-lane-displaces-equals',
    without: 'callers with one request each displace each other',
    text: 'heaviest[1] <= ofNewCaller + 1',
    replacement: 'heaviest[1] < ofNewCaller + 1',
  },
  {
    ...queue,
    name: 'hashing-displaces-the-oldest',
    without: 'the request that has waited for longest is displaced',
    text: 'this.waiting.findLastIndex(',
    replacement: 'this.waiting.findIndex(',
  },
  {
    ...queue,
    name: 'hashing-displaced-count-for-ever',
    without: 'displaced requests count for their caller for ever',
    text: '    this.uncount(heaviest[0]);\n',
    replacement: '',
  },
  {
    ...queue,
    name: 'hashing-places-never-freed',
    without: 'a caller is refused for ever once it has had as many requests as may wait',
    text: '    if (entry) this.uncount(entry.caller);\n',
    replacement: '',
  },
  {
    ...queue,
    name: 'hashing-lanes-without-weights',
    without: 'lanes take turns one for one',
    text: '(lane.credit += lane.bounds.weight)',
    replacement: '(lane.credit += lane.bounds.weight > 0 ? 1 : 0)',
  },
];
