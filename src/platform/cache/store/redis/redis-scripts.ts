/**
 * How a key of the fenced cache is written in Redis, and the six atomic Lua scripts that change it
 * (docs/design/cache-protocol.md). Version and floor have 20 digits, so that text compares as
 * number:
 * `L<token>`, `V<version><payload>`, `N<version>`, `F<floor>(<deadline>:<token>,)*`.
 * Invariant: a script forgets a fence's expired tokens, by Redis's own clock, before it decides.
 */
import { createHash } from 'node:crypto';
import { type CacheEntry, type CacheValue, checkVersion } from '../cache-store.js';

/**
 * Begins each script. It defines:
 * - `kind`: the first byte of the key's text; false: absent; '?': not decodable, or not a string;
 * - `version`: the version of a value or a negative entry, the floor of a fence;
 * - `prune()`: reads the tokens of a fence. Afterwards `mine` is the deadline of the caller's
 *   token,
 *   or false, and `others` are the members `<deadline>:<token>,` of the other tokens.
 */
const PRELUDE = `
local key, token = KEYS[1], ARGV[1]
local beyond = '00009007199254740991'
local raw = redis.pcall('GET', key)
if type(raw) == 'table' then raw = '' end
local kind, version = false, '00000000000000000000'
if raw then
  kind = string.sub(raw, 1, 1)
  local digits = string.sub(raw, 2, 21)
  if kind == 'V' or kind == 'N' or kind == 'F' then
    if #digits == 20 and not string.find(digits, '%D') and digits <= beyond then
      version = digits
    else
      kind = '?'
    end
  elseif kind ~= 'L' then
    kind = '?'
  end
end
local others, latest, mine, now = {}, 0, false, 0
local function prune()
  local time = redis.call('TIME')
  now = time[1] * 1000 + math.floor(time[2] / 1000)
  if kind ~= 'F' then return end
  for deadline, name in string.gmatch(string.sub(raw, 22), '(%d+):([^,]*),') do
    local at = tonumber(deadline)
    if at > now then
      if name == token then
        mine = at
      else
        others[#others + 1] = deadline .. ':' .. name .. ','
        latest = math.max(latest, at)
      end
    else
      -- Nobody knows what the writer of an expired token has committed.
      version = beyond
    end
  end
end
local function put(value, ms) redis.call('SET', key, value, 'PX', ms) end
local function keepFence(floor)
  local fence = 'F' .. floor .. table.concat(others)
  redis.call('SET', key, fence, 'PXAT', string.format('%.0f', latest))
end
`;

/** ARGV: token, milliseconds. */
const LEASE = `
if kind and kind ~= '?' then return raw end
put('L' .. token, ARGV[2])
return false`;

/** ARGV: token, encoded entry, milliseconds. */
const FILL = `
if raw ~= 'L' .. token then return 0 end
put(ARGV[2], ARGV[3])
return 1`;

/** ARGV: the encoded entry that was read, the new one, milliseconds or '' to keep the expiry. */
const REPLACE = `
if raw ~= ARGV[1] then return 0 end
if ARGV[3] == '' then redis.call('SET', key, ARGV[2], 'KEEPTTL') else put(ARGV[2], ARGV[3]) end
return 1`;

/** ARGV: token, milliseconds. */
const FENCE = `
prune()
local deadline = math.max(mine or 0, now + tonumber(ARGV[2]))
others[#others + 1] = string.format('%.0f', deadline) .. ':' .. token .. ','
latest = math.max(latest, deadline)
keepFence(version)
return 1`;

/**
 * ARGV: token, encoded entry or '' for an absence, milliseconds. Returns whether the token was in
 * the fence. MemoryStore has the same branches.
 */
const PUBLISH = `
local isAbsence = ARGV[2] == ''
local published = string.sub(ARGV[2], 2, 21)
local isFenced = 0
if kind == 'F' then
  prune()
  if mine then isFenced = 1 end
  if #others > 0 then
    if isAbsence then
      version = beyond
    elseif published > version then
      version = published
    end
    keepFence(version)
  elseif not isAbsence and mine and published >= version then
    put(ARGV[2], ARGV[3])
  else
    redis.call('DEL', key)
  end
elseif kind == 'V' then
  if isAbsence then
    redis.call('DEL', key)
  elseif published > version then
    put(ARGV[2], ARGV[3])
  end
elseif kind == 'N' then
  -- A reader fills a negative entry with version 0, whatever version the deletion had. So the
  -- published row may be older than the deletion: the next reader asks PostgreSQL.
  if isAbsence or published > version then redis.call('DEL', key) end
elseif raw then
  -- A lease, or not decodable.
  redis.call('DEL', key)
end
return isFenced`;

/** ARGV: token. */
const UNFENCE = `
if kind ~= 'F' then return 0 end
prune()
if #others > 0 then keepFence(version) else redis.call('DEL', key) end
return 1`;

/** A Lua script of exactly one key, so that it also runs on a Cluster. */
export interface RedisScript {
  readonly text: string;
  /** The name by which EVALSHA finds it. */
  readonly sha1: string;
}

const createScript = (body: string): RedisScript => withName(PRELUDE + body);

const withName = (text: string): RedisScript => ({
  text,
  sha1: createHash('sha1').update(text).digest('hex'),
});

/**
 * The list of nodes with near caches (near/near-list.ts) is a hash: `state` is `p` or `w` (whole)
 * and the list's id, `count` numbers the revocations, `n:<node>` is the node's last renewal.
 * ARGV[1] is an id for the case that there is no list.
 */
const NEAR_PRELUDE = `
local key = KEYS[1]
if redis.call('TYPE', key).ok ~= 'hash' then redis.call('DEL', key) end
local state = redis.call('HGET', key, 'state')
if not state then
  state = 'p' .. ARGV[1]
  redis.call('HSET', key, 'state', state)
end
redis.call('PEXPIRE', key, 3600000)
`;

/** ARGV: new id, node, renewal, the id of a list that is whole. */
const NEAR_RENEW = `
if state == 'p' .. ARGV[4] then
  state = 'w' .. ARGV[4]
  redis.call('HSET', key, 'state', state)
end
redis.call('HSET', key, 'n:' .. ARGV[2], ARGV[3])
return {state, redis.call('HGET', key, 'count') or '0'}`;

/** ARGV: new id, message. */
const NEAR_REVOKE = `
local count = redis.call('HINCRBY', key, 'count', 1)
redis.call('PUBLISH', key, string.sub(state, 2) .. ':' .. count .. ':' .. ARGV[2])
return {state, tostring(count), redis.call('HGETALL', key)}`;

/** ARGV: new id, the id of a list that is whole. */
const NEAR_WHOLE = `
if state == 'p' .. ARGV[2] then redis.call('HSET', key, 'state', 'w' .. ARGV[2]) end
return 1`;

/** ARGV: new id, node, renewal. */
const NEAR_REMOVE = `
local field = 'n:' .. ARGV[2]
if redis.call('HGET', key, field) == ARGV[3] then redis.call('HDEL', key, field) end
return 1`;

const createNearScript = (body: string): RedisScript => withName(NEAR_PRELUDE + body);

export const scripts = {
  lease: createScript(LEASE),
  fill: createScript(FILL),
  replace: createScript(REPLACE),
  fence: createScript(FENCE),
  publish: createScript(PUBLISH),
  unfence: createScript(UNFENCE),
  nearRenew: createNearScript(NEAR_RENEW),
  nearRevoke: createNearScript(NEAR_REVOKE),
  nearWhole: createNearScript(NEAR_WHOLE),
  nearRemove: createNearScript(NEAR_REMOVE),
};

/**
 * An entry as it is written in Redis.
 * @throws RangeError for a version that is not a safe integer ≥ 0
 */
export function encodeEntry({ version, payload }: Pick<CacheValue, 'version' | 'payload'>): string {
  checkVersion(version);
  const digits = String(version).padStart(20, '0');
  return payload === null ? `N${digits}` : `V${digits}${payload}`;
}

/**
 * A key's text as a reader sees it. A text that the scripts would overwrite as not decodable is
 * absent.
 */
export function decodeEntry(text: string | null): CacheEntry {
  const kind = text?.[0];
  if (text === null || kind === undefined) return { state: 'absent' };
  if (kind === 'L') return { state: 'lease' };
  const digits = text.slice(1, 21);
  const version = /^\d{20}$/.test(digits) ? Number(digits) : NaN;
  if (!Number.isSafeInteger(version)) return { state: 'absent' };
  switch (kind) {
    case 'V':
      return { state: 'value', version, payload: text.slice(21) };
    case 'N':
      return { state: 'none', version };
    case 'F':
      return { state: 'fence' };
    default:
      return { state: 'absent' };
  }
}

/**
 * @returns the token
 * @throws RangeError for a token that a fence's text could not separate from its neighbours
 */
export function checkToken(token: string): string {
  if (!/^[\w-]+$/.test(token)) {
    throw new RangeError('A token must consist of letters, digits, "_" and "-"');
  }
  return token;
}
