# frozen_string_literal: true

# One checkout against Holdfast: hold units, take the payment, confirm or release. README.md says how to run it.

require "grpc"
require "json"
require "optparse"
require "timeout"
require "google/protobuf/well_known_types"
require "google/rpc/error_details_pb"
require "google/rpc/status_pb"
require "holdfast/v1/event_services_pb"
require "holdfast/v1/reservation_services_pb"
require "holdfast/v1/stock_services_pb"

include Holdfast::V1

POLICY = File.expand_path("../../proto/retry-policy.json", __dir__)
# Tries of a call whose answer did not come in time. What is UNAVAILABLE the channel retries by its policy.
TRIES = 3
EVENT_SECONDS = 30
# A hold that has less left than a payment takes is not worth one.
PAYMENT_SECONDS = 0.5
SOLD = 0
NOT_SOLD = 1
FAILED = 3

CODES = GRPC::Core::StatusCodes.constants.to_h { |name| [GRPC::Core::StatusCodes.const_get(name), name.to_s] }

# A call ended with an error: its status, and what the server says about it.
class Refused < StandardError
  attr_reader :name

  def initialize(name, error)
    super(error.details)
    @name = name
    @code = error.code
    encoded = error.metadata["grpc-status-details-bin"]
    @status = encoded && Google::Rpc::Status.decode(encoded)
  end

  def reason
    info&.reason || CODES[@code]
  end

  def replay?
    !info.nil? && info.metadata["replayed"] == "true"
  end

  # Of the calls of a checkout these two codes are decisions; all others say that none was made.
  def decision?
    !info.nil? && [GRPC::Core::StatusCodes::FAILED_PRECONDITION, GRPC::Core::StatusCodes::NOT_FOUND].include?(@code)
  end

  def explain
    puts "refused #{@name}: #{CODES[@code]}"
    # Not from the server: for people who look for what is wrong with the connection.
    return warn(message) unless @status

    puts "  message #{@status.message}"
    if info
      values = info.metadata.to_h.sort.map { |key, value| "#{key}=#{value}" }
      puts ["  reason #{info.reason}", *(values.join(", ") unless values.empty?)].join(": ")
    end
    if (retrying = detail(Google::Rpc::RetryInfo))
      puts "  retry after #{(retrying.retry_delay.to_f * 1000).round} ms"
    end
    detail(Google::Rpc::PreconditionFailure)&.violations&.each { |each| puts "  failed #{each.subject}: #{each.description}" }
    detail(Google::Rpc::BadRequest)&.field_violations&.each { |each| puts "  field #{each.field}: #{each.description}" }
  end

  private

  def info
    detail(Google::Rpc::ErrorInfo)
  end

  def detail(kind)
    @status&.details&.find { |each| each.is(kind) }&.unpack(kind)
  end
end

# What every call of a checkout needs: stubs on one channel, and who calls.
class Connection
  attr_reader :stock, :reservations, :events, :metadata

  def initialize(options)
    # Ruby's calls cannot say wait_for_ready, so the policy does: a server that is away is waited for until the deadline.
    policy = JSON.parse(File.read(POLICY))
    policy["methodConfig"].each { |config| config["waitForReady"] = true }
    policy["methodConfig"] << { "name" => [{ "service" => "holdfast.v1.EventService" }], "waitForReady" => true }
    settings = { "grpc.service_config" => JSON.dump(policy), "grpc.keepalive_time_ms" => 30_000 }
    settings["grpc.ssl_target_name_override"] = options[:"tls-name"] if options[:"tls-name"]
    authority = options[:"tls-ca"]
    credentials = authority ? GRPC::Core::ChannelCredentials.new(File.read(authority)) : :this_channel_is_insecure
    channel = GRPC::Core::Channel.new(options[:target], settings, credentials)
    @stock, @reservations, @events = [StockService, ReservationService, EventService].map do |service|
      service::Stub.new(options[:target], credentials, channel_override: channel)
    end
    token = ENV["HOLDFAST_TOKEN"].to_s
    @metadata = token.empty? ? {} : { "authorization" => "Bearer #{token}" }
  end
end

# The events of one order, from now on, in a thread that goes on with its resume token where the stream breaks.
class OrderEvents
  KINDS = %i[HELD CONFIRMED RELEASED EXPIRED REFUSED].map { |kind| :"EVENT_KIND_#{kind}" }

  def initialize(connection, order)
    @connection = connection
    @order = order
    @seen = Queue.new
    @thread = Thread.new { follow }
    take
  end

  def print_until(last)
    loop do
      event = take
      kind = event.kind.to_s.delete_prefix("EVENT_KIND_")
      puts ["event", kind, *event.lines.map { |line| "#{line.quantity} #{line.sku}" }].join(" ")
      return if kind == last
    end
  end

  private

  # :open first, once the stream stands; then an event.
  def take
    found = Timeout.timeout(EVENT_SECONDS) { @seen.pop }
    raise found if found.is_a?(Refused)

    found
  end

  def follow
    request = WatchRequest.new(reference_prefix: @order, kinds: KINDS)
    loop do
      @connection.events.watch(request, metadata: @connection.metadata).each do |response|
        @seen << :open if request.resume_token.empty?
        request.resume_token = response.resume_token
        # The prefix order-1 is that of order-10 as well.
        response.events.each { |event| @seen << event if event.reference == @order }
      end
    rescue GRPC::Unavailable
      sleep 0.2
    rescue GRPC::BadStatus => error
      @seen << Refused.new("Watch", error)
      break
    end
  end
end

# From the first call to the last line.
class Checkout
  def initialize(connection, options)
    @connection = connection
    @options = options
    @sku, @units, @order = options.values_at(:sku, :units, :order)
  end

  # The status, and the last line.
  def run
    set_stock(@options[:stock]) if @options[:stock]
    @events = OrderEvents.new(@connection, @order)
    puts "watching #{@order}"
    held = begin
      reserve
    rescue Refused => refused
      return turned_down(refused, refused.replay? ? nil : "REFUSED")
    end
    case held.state
    when :RESERVATION_STATE_CONFIRMED then return [SOLD, "sold"]
    when :RESERVATION_STATE_HELD then nil
    else return [NOT_SOLD, "not sold: the hold is #{state_of(held)}"]
    end
    # By the server's clock: this machine's may be wrong, so expires_at says nothing here.
    if held.remaining.to_f < PAYMENT_SECONDS || !paid?
      @events.print_until(release(held.reservation_id))
      return [NOT_SOLD, "not sold: no payment"]
    end
    finish(held.reservation_id)
  end

  private

  # A call with its deadline. The request has a key or an id, so that it may be sent again as it is.
  def call(stub, name, request)
    method = name.gsub(/(?<!^)([A-Z])/, '_\1').downcase
    tries = 0
    begin
      tries += 1
      stub.public_send(method, request, deadline: Time.now + @options[:deadline], metadata: @connection.metadata)
    rescue GRPC::DeadlineExceeded => error
      raise Refused.new(name, error) if tries == TRIES

      puts "again #{name}: DEADLINE_EXCEEDED"
      retry
    rescue GRPC::BadStatus => error
      raise Refused.new(name, error)
    end
  end

  def set_stock(units)
    level = call(@connection.stock, "AdjustStock", AdjustStockRequest.new(
      idempotency_key: "#{@order}/stock", sku: @sku, set_on_hand: units, any_version: true, reason: "delivery"
    )).stock
    puts "stock #{level.sku}: #{level.on_hand} on hand, #{level.available} available"
  end

  def reserve
    held = call(@connection.reservations, "Reserve", ReserveRequest.new(
      # The same on every retry of this attempt, another for the customer's next.
      idempotency_key: "#{@order}/#{@options[:attempt]}", reference: @order,
      lines: [ReservationLine.new(sku: @sku, quantity: @units)],
      ttl: Google::Protobuf::Duration.new(seconds: @options[:ttl])
    ))
    puts "held #{@units} #{@sku} (#{state_of(held)})#{replayed(held)}"
    held
  end

  # True if the customer has paid. A real payment has an idempotency key of its own, too.
  def paid?
    answer = @options[:payment]
    if answer == "ask"
      puts "payment? ok or declined"
      answer = $stdin.gets.to_s.strip
    end
    puts(answer == "ok" ? "payment ok" : "payment declined")
    answer == "ok"
  end

  # How the hold has ended: a refusal says that it fell due before.
  def release(id)
    show("released", call(@connection.reservations, "Release", ReleaseRequest.new(reservation_id: id)))
    "RELEASED"
  rescue Refused => refused
    raise unless refused.reason == "RESERVATION_EXPIRED"

    refused.explain
    "EXPIRED"
  end

  def finish(id)
    # The money is here: a hold that fell due meanwhile is taken again, if there still is stock.
    show("confirmed", call(@connection.reservations, "Confirm",
                           ConfirmRequest.new(reservation_id: id, reacquire_if_expired: true)))
    @events.print_until("CONFIRMED")
    [SOLD, "sold"]
  rescue Refused => refused
    turned_down(refused, "EXPIRED") { puts "refunded" }
  end

  # The end of a sale that the server refused, behind the last of its events.
  def turned_down(refused, last_event)
    raise refused unless refused.decision?

    refused.explain
    yield if block_given?
    @events.print_until(last_event) if last_event
    [NOT_SOLD, "not sold: #{refused.reason}"]
  end

  def show(word, response)
    puts "#{word} #{response.reservation.lines.sum(&:quantity)} #{@sku}#{replayed(response)}"
  end

  def state_of(held)
    held.state.to_s.delete_prefix("RESERVATION_STATE_")
  end

  def replayed(response)
    response.replayed ? ", replayed" : ""
  end
end

def parse
  options = { target: ENV["HOLDFAST_TARGET"] || "127.0.0.1:7420", units: 1, attempt: 1, ttl: 60, payment: "ok",
              deadline: 5.0, "tls-ca": ENV["HOLDFAST_TLS_CA"] }
  parser = OptionParser.new do |flags|
    flags.require_exact = true
    flags.on("--target HOST:PORT")
    flags.on("--sku SKU", "what is bought")
    flags.on("--units N", Integer, "how many")
    flags.on("--order ID", "the order's id: reference of the hold, and in its key")
    flags.on("--attempt N", Integer, "which attempt of the customer: in the key")
    flags.on("--stock N", Integer, "set the units on hand first")
    flags.on("--ttl SECONDS", Integer, "of the hold")
    flags.on("--payment HOW", %w[ok declined ask], "ok, declined, or ask: on standard input")
    flags.on("--deadline SECONDS", Float, "of each call")
    flags.on("--tls-ca FILE", "TLS; PEM")
    flags.on("--tls-name NAME", "the name in the server's certificate")
  end
  rest = parser.parse(ARGV, into: options)
  raise OptionParser::MissingArgument, "--sku and --order" unless options[:sku] && options[:order] && rest.empty?

  options
rescue OptionParser::ParseError => error
  warn error.message, parser.help
  exit 2
end

$stdout.sync = true
options = parse
begin
  status, last = Checkout.new(Connection.new(options), options).run
rescue Refused => refused
  refused.explain
  status = FAILED
  last = "failed: #{refused.reason}"
rescue Timeout::Error
  status = FAILED
  last = "failed: no event"
end
puts last
exit status
