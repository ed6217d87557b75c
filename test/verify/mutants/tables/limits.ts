/** Who is counted for a request, and that refused requests count. */
import { lines, type Mutant } from '../mutant.js';

const rateLimit = {
  file: 'src/platform/http/rate-limit/rate-limit.service.ts',
  specs: ['test/platform/http/rate-limit/refused-requests.spec.ts'],
};
const address = {
  file: 'src/platform/http/server/client-address.ts',
  specs: ['test/platform/http/server/client-address.spec.ts'],
};
const early = {
  file: 'src/platform/http/server/early-problems.ts',
  specs: [
    'test/platform/http/server/early-problems.spec.ts',
    'test/platform/http/rate-limit/refused-requests.spec.ts',
  ],
};

export const LIMIT_MUTANTS: readonly Mutant[] = [
  {
    ...rateLimit,
    name: 'rate-counted-by-address',
    without: 'a client with an IPv6 /64 has a limit for each of its addresses',
    text: '`address:${networkOf(address)}`',
    replacement: '`address:${address}`',
    specs: [...rateLimit.specs, ...address.specs],
  },
  {
    ...rateLimit,
    name: 'probes-with-a-query-count',
    without: 'a kubelet that sends ?verbose gets 429',
    file: 'src/platform/http/server/route-settings.decorator.ts',
    text: "url.split('?', 1)[0] === routeOptions.url",
    replacement: 'url === routeOptions.url',
    specs: ['test/platform/http/rate-limit/rate-limit.spec.ts'],
    tests: 'does not apply',
  },
  {
    ...rateLimit,
    name: 'unknown-tokens-looked-up-past-the-limit',
    without: 'guessed tokens are looked up in the cache and in PostgreSQL without a limit',
    text: lines('    if (isOverLimit) {', '      await this.consume(request, reply);'),
    replacement: lines(
      '    if (isOverLimit && !key) {',
      '      await this.consume(request, reply);',
    ),
    tests: 'unknown tokens',
  },
  {
    ...rateLimit,
    name: 'right-tokens-count-as-unknown',
    without: 'users behind one address use up its limit of unknown tokens',
    text: 'if (!isUnknown) await this.unknownTokens.reward(key);',
    replacement: 'void isUnknown;',
    tests: 'unknown tokens',
  },
  {
    ...rateLimit,
    name: 'unknown-tokens-taken-back',
    without: 'guessed tokens do not count',
    text: 'isUnknown = found === undefined;',
    replacement: '',
    tests: 'unknown tokens',
  },
  {
    ...rateLimit,
    name: 'counters-in-a-process-unbounded',
    without: 'each address that was ever seen keeps a counter in memory',
    file: 'src/platform/http/rate-limit/counters.ts',
    text: "if (reason === 'evict') void this.delete(key);",
    replacement: 'void [reason, key];',
    specs: ['test/platform/http/rate-limit/counters.spec.ts'],
  },
  {
    ...address,
    name: 'address-with-its-port',
    without: 'a client has as many addresses as its proxy names ports',
    text: "const [address = ''] = withoutPort(text).split('%');",
    replacement: "const [address = ''] = text.split('%');",
  },
  {
    ...address,
    name: 'address-in-any-spelling',
    without: 'one IPv6 address has several forms',
    text: "return new SocketAddress({ address, family: 'ipv6' }).address.replace(",
    replacement: 'return (SocketAddress ? address : address).replace(',
  },
  {
    ...address,
    name: 'network-of-a-mapped-address',
    without: 'all IPv4 clients on a socket of IPv6 are one network',
    text: 'return ipv4Of(groups) ?? `',
    replacement: 'return `',
  },
  {
    ...address,
    name: 'network-of-a-whole-address',
    without: 'each IPv6 address counts as a client',
    text: 'const NETWORK_GROUPS = 4;',
    replacement: 'const NETWORK_GROUPS = 8;',
  },
  {
    ...address,
    name: 'first-hop-counts',
    without: 'the proxy counts instead of its client',
    text: 'for (const hop of hops.toReversed()) {',
    replacement: 'for (const hop of hops) {',
  },
  {
    ...early,
    name: 'unreadable-url-counts-for-the-proxy',
    without: 'a URL that cannot be read counts for the proxy',
    text: 'void this.countRefused(this.clientOf(request.raw)).then(',
    replacement: "void this.countRefused(request.raw.socket.remoteAddress ?? '').then(",
    specs: ['test/platform/http/rate-limit/refused-requests.spec.ts'],
  },
  {
    ...early,
    name: 'malformed-requests-uncounted',
    without: 'requests that the parser rejects do not count for their address',
    text: 'return address === undefined ? Promise.resolve(undefined) : this.countRefused(address);',
    replacement: 'return Promise.resolve(address && undefined);',
    specs: ['test/platform/http/rate-limit/refused-requests.spec.ts'],
  },
  {
    ...early,
    name: 'failure-answers-another-request',
    without: 'the answer to a malformed request is sent before the response to an earlier one',
    text: '    if (last) {\n',
    replacement: '    if (last && !last) {\n',
    specs: ['test/platform/http/server/early-problems.spec.ts'],
  },
  {
    ...early,
    name: 'failure-inside-a-response',
    without: 'the answer to a malformed request is sent in the middle of a response',
    text: '} else if (isAnswered || !socket.writable) {',
    replacement: '} else if (!socket.writable && !isAnswered) {',
    specs: ['test/platform/http/server/early-problems.spec.ts'],
  },
];
