#!/usr/bin/env node
// One checkout against Holdfast: hold units, take the payment, confirm or release. README.md says how to run it.
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

import grpc from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';
import protobuf from 'protobufjs';

const PROTO = fileURLToPath(new URL('../../proto', import.meta.url));
// Tries of a call whose answer did not come in time. What is UNAVAILABLE the channel retries by its policy.
const TRIES = 3;
const EVENT_MILLISECONDS = 30_000;
// A hold that has less left than a payment takes is not worth one.
const PAYMENT_MILLISECONDS = 500;
const SOLD = 0;
const NOT_SOLD = 1;
const WRONG_FLAGS = 2;
const FAILED = 3;

const { v1 } = grpc.loadPackageDefinition(loadSync(
  ['reservation', 'stock', 'event'].map((name) => `holdfast/v1/${name}.proto`),
  { includeDirs: [PROTO], longs: String, enums: String, defaults: true, oneofs: true })).holdfast;

// What google.rpc.Status and its details are made of; gRPC for Node leaves them as bytes.
const googleapis = dirname(createRequire(import.meta.url).resolve('google-proto-files/package.json'));
const rpc = protobuf.loadSync(['status', 'error_details'].map((name) => join(googleapis, `google/rpc/${name}.proto`)));

const say = (text) => process.stdout.write(`${text}\n`);

const milliseconds = (duration) => Number(duration?.seconds ?? 0) * 1000 + Math.round((duration?.nanos ?? 0) / 1e6);

/** A call ended with an error: its status, and what the server says about it. */
class Refused extends Error {
  constructor(call, error) {
    super(error.details, { cause: error });
    this.call = call;
    this.code = error.code;
    const [encoded] = error.metadata?.get('grpc-status-details-bin') ?? [];
    this.status = encoded && rpc.lookupType('google.rpc.Status').decode(encoded);
    this.info = this.detail('ErrorInfo');
    this.codeName = grpc.status[error.code];
    this.reason = this.info?.reason ?? this.codeName;
    this.isReplay = this.info?.metadata?.replayed === 'true';
    // Of the calls of a checkout these two codes are decisions; all others say that none was made.
    this.isDecision = Boolean(this.info) && [grpc.status.FAILED_PRECONDITION, grpc.status.NOT_FOUND].includes(error.code);
  }

  detail(kind) {
    const type = rpc.lookupType(`google.rpc.${kind}`);
    const found = this.status?.details.find((each) => each.type_url.endsWith(`/google.rpc.${kind}`));
    return found && type.toObject(type.decode(found.value), { longs: String, defaults: true });
  }

  explain() {
    say(`refused ${this.call}: ${this.codeName}`);
    if (!this.status) {
      // Not from the server: for people who look for what is wrong with the connection.
      console.error(this.message);
      return;
    }
    say(`  message ${this.status.message}`);
    if (this.info) {
      const values = Object.keys(this.info.metadata).sort().map((key) => `${key}=${this.info.metadata[key]}`);
      say(`  reason ${[this.info.reason, ...(values.length ? [values.join(', ')] : [])].join(': ')}`);
    }
    const retry = this.detail('RetryInfo');
    if (retry) say(`  retry after ${milliseconds(retry.retryDelay)} ms`);
    for (const each of this.detail('PreconditionFailure')?.violations ?? []) say(`  failed ${each.subject}: ${each.description}`);
    for (const each of this.detail('BadRequest')?.fieldViolations ?? []) say(`  field ${each.field}: ${each.description}`);
  }
}

class NoEvent extends Error {}

/** Of every call: who calls. It waits for a server that is away, until its deadline. */
function metadata() {
  const made = new grpc.Metadata({ waitForReady: true });
  if (process.env.HOLDFAST_TOKEN) made.set('authorization', `Bearer ${process.env.HOLDFAST_TOKEN}`);
  return made;
}

/** The events of one order, from when the stream stands on. */
class OrderEvents {
  static async open(service, order) {
    const events = new OrderEvents();
    events.iterator = events.follow(service, order);
    await events.next();
    return events;
  }

  /** null first; then its events. Goes on with the resume token where the stream breaks. */
  async* follow(service, order) {
    const request = {
      referencePrefix: order,
      kinds: ['HELD', 'CONFIRMED', 'RELEASED', 'EXPIRED', 'REFUSED'].map((kind) => `EVENT_KIND_${kind}`),
    };
    while (true) {
      this.stream = service.watch(request, metadata());
      try {
        for await (const response of this.stream) {
          if (!request.resumeToken) yield null;
          request.resumeToken = response.resumeToken;
          // The prefix order-1 is that of order-10 as well.
          yield* response.events.filter((event) => event.reference === order);
        }
      } catch (error) {
        if (error.code !== grpc.status.UNAVAILABLE) throw new Refused('Watch', error);
      }
      await sleep(200);
    }
  }

  async next() {
    const timer = new AbortController();
    const late = sleep(EVENT_MILLISECONDS, null, { signal: timer.signal }).then(() => { throw new NoEvent('no event'); });
    late.catch(() => {});
    try {
      return (await Promise.race([this.iterator.next(), late])).value;
    } finally {
      timer.abort();
    }
  }

  async printUntil(last) {
    let kind;
    do {
      const event = await this.next();
      kind = event.kind.slice('EVENT_KIND_'.length);
      say(['event', kind, ...event.lines.map((line) => `${line.quantity} ${line.sku}`)].join(' '));
    } while (kind !== last);
  }
}

class Checkout {
  constructor(options) {
    this.options = options;
    const settings = {
      'grpc.service_config': readFileSync(join(PROTO, 'retry-policy.json'), 'utf8'),
      'grpc.keepalive_time_ms': 30_000,
      ...(options['tls-name'] && { 'grpc.ssl_target_name_override': options['tls-name'] }),
    };
    const authority = options['tls-ca'];
    const credentials = authority ? grpc.credentials.createSsl(readFileSync(authority)) : grpc.credentials.createInsecure();
    this.stock = new v1.StockService(options.target, credentials, settings);
    // All services share a connection.
    const shared = { ...settings, channelOverride: this.stock.getChannel() };
    this.reservations = new v1.ReservationService(options.target, credentials, shared);
    this.events = new v1.EventService(options.target, credentials, shared);
  }

  close() {
    this.stock.close();
  }

  /** A call with its deadline. The request has a key or an id, so that it may be sent again as it is. */
  async call(service, name, request) {
    for (let number = 1; ; number++) {
      try {
        return await new Promise((resolve, reject) => {
          service[name](request, metadata(), { deadline: Date.now() + this.options.deadline * 1000 },
            (error, response) => (error ? reject(error) : resolve(response)));
        });
      } catch (error) {
        if (error.code !== grpc.status.DEADLINE_EXCEEDED || number === TRIES) throw new Refused(name, error);
        say(`again ${name}: DEADLINE_EXCEEDED`);
      }
    }
  }

  async setStock(units) {
    const { sku, order } = this.options;
    const { stock } = await this.call(this.stock, 'AdjustStock', {
      idempotencyKey: `${order}/stock`, sku, setOnHand: units, anyVersion: true, reason: 'delivery',
    });
    say(`stock ${stock.sku}: ${stock.onHand} on hand, ${stock.available} available`);
  }

  async reserve() {
    const { sku, units, order, attempt, ttl } = this.options;
    const held = await this.call(this.reservations, 'Reserve', {
      // The same on every retry of this attempt, another for the customer's next.
      idempotencyKey: `${order}/${attempt}`, reference: order, lines: [{ sku, quantity: units }], ttl: { seconds: ttl },
    });
    held.state = held.state.slice('RESERVATION_STATE_'.length);
    say(`held ${units} ${sku} (${held.state})${held.replayed ? ', replayed' : ''}`);
    return held;
  }

  /** True if the customer has paid. A real payment has an idempotency key of its own, too. */
  async isPaid() {
    let answer = this.options.payment;
    if (answer === 'ask') {
      say('payment? ok or declined');
      const input = createInterface({ input: process.stdin });
      answer = await new Promise((resolve) => {
        input.once('line', resolve);
        input.once('close', () => resolve(''));
      });
      input.close();
    }
    const isOk = answer.trim() === 'ok';
    say(isOk ? 'payment ok' : 'payment declined');
    return isOk;
  }

  ended(word, { reservation, replayed }) {
    const units = reservation.lines.reduce((sum, line) => sum + Number(line.quantity), 0);
    say(`${word} ${units} ${this.options.sku}${replayed ? ', replayed' : ''}`);
  }

  /** How the hold has ended: a refusal says that it fell due before. */
  async release(reservationId) {
    try {
      this.ended('released', await this.call(this.reservations, 'Release', { reservationId }));
      return 'RELEASED';
    } catch (error) {
      if (error.reason !== 'RESERVATION_EXPIRED') throw error;
      error.explain();
      return 'EXPIRED';
    }
  }

  /** The status, and the last line. */
  async run() {
    if (this.options.stock !== undefined) await this.setStock(this.options.stock);
    const seen = await OrderEvents.open(this.events, this.options.order);
    try {
      say(`watching ${this.options.order}`);
      return await this.sell(seen);
    } finally {
      seen.stream.cancel();
    }
  }

  async sell(seen) {
    let held;
    try {
      held = await this.reserve();
    } catch (error) {
      if (!error.isDecision) throw error;
      error.explain();
      if (!error.isReplay) await seen.printUntil('REFUSED');
      return [NOT_SOLD, `not sold: ${error.reason}`];
    }
    if (held.state === 'CONFIRMED') return [SOLD, 'sold'];
    if (held.state !== 'HELD') return [NOT_SOLD, `not sold: the hold is ${held.state}`];
    // By the server's clock: this machine's may be wrong, so expiresAt says nothing here.
    if (milliseconds(held.remaining) < PAYMENT_MILLISECONDS || !await this.isPaid()) {
      await seen.printUntil(await this.release(held.reservationId));
      return [NOT_SOLD, 'not sold: no payment'];
    }
    try {
      // The money is here: a hold that fell due meanwhile is taken again, if there still is stock.
      this.ended('confirmed', await this.call(this.reservations, 'Confirm', {
        reservationId: held.reservationId, reacquireIfExpired: true,
      }));
    } catch (error) {
      if (!error.isDecision) throw error;
      error.explain();
      say('refunded');
      await seen.printUntil('EXPIRED');
      return [NOT_SOLD, `not sold: ${error.reason}`];
    }
    await seen.printUntil('CONFIRMED');
    return [SOLD, 'sold'];
  }
}

function parse() {
  const names = ['target', 'sku', 'units', 'order', 'attempt', 'stock', 'ttl', 'payment', 'deadline', 'tls-ca', 'tls-name'];
  const { values } = parseArgs({ options: Object.fromEntries(names.map((name) => [name, { type: 'string' }])) });
  const options = {
    target: process.env.HOLDFAST_TARGET || '127.0.0.1:7420', units: 1, attempt: 1, ttl: 60, payment: 'ok', deadline: 5,
    'tls-ca': process.env.HOLDFAST_TLS_CA, ...values,
  };
  for (const name of ['units', 'attempt', 'stock', 'ttl', 'deadline']) {
    if (name in values && !Number.isFinite(options[name] = Number(values[name]))) throw new TypeError(`--${name} is no number`);
  }
  if (!options.sku || !options.order) throw new TypeError('--sku and --order are needed');
  if (!['ok', 'declined', 'ask'].includes(options.payment)) throw new TypeError('--payment is ok, declined or ask');
  return options;
}

let options;
try {
  options = parse();
} catch (error) {
  console.error(error.message);
  process.exit(WRONG_FLAGS);
}
const checkout = new Checkout(options);
let status;
let last;
try {
  [status, last] = await checkout.run();
} catch (error) {
  if (error instanceof Refused) error.explain();
  else if (!(error instanceof NoEvent)) throw error;
  [status, last] = [FAILED, `failed: ${error.reason ?? error.message}`];
}
checkout.close();
say(last);
process.exitCode = status;
