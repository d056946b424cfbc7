// One checkout against Holdfast: hold units, take the payment, confirm or release. README.md says how to run it.
#include <getopt.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <deque>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <variant>

#include <google/protobuf/util/time_util.h>
#include <grpcpp/grpcpp.h>

#include "google/rpc/code.pb.h"
#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"
#include "holdfast/v1/event.grpc.pb.h"
#include "holdfast/v1/reservation.grpc.pb.h"
#include "holdfast/v1/stock.grpc.pb.h"
#include "retry_policy.h"

namespace v1 = holdfast::v1;
using google::protobuf::util::TimeUtil;

namespace {

// Tries of a call whose answer did not come in time. What is UNAVAILABLE the channel retries by its policy.
constexpr int kTries = 3;
constexpr std::chrono::seconds kEventTime{30};
// A hold that has less left than a payment takes is not worth one.
constexpr int64_t kPaymentMilliseconds = 500;

enum Exit { kSold = 0, kNotSold = 1, kWrongFlags = 2, kFailed = 3 };

void Say(const std::string& text) { std::cout << text << std::endl; }

// A call that ended with an error: its status, and what the server says about it.
class Refused : public std::exception {
 public:
  Refused(std::string call, const grpc::Status& status) : call_(std::move(call)), status_(status) {
    has_details_ = !status.error_details().empty() && details_.ParseFromString(status.error_details());
    info_ = Detail<google::rpc::ErrorInfo>();
  }

  const char* what() const noexcept override { return call_.c_str(); }

  std::string Reason() const { return info_ ? info_->reason() : CodeName(); }

  bool IsReplay() const {
    if (!info_) return false;
    const auto found = info_->metadata().find("replayed");
    return found != info_->metadata().end() && found->second == "true";
  }

  // Of the calls of a checkout these two codes are decisions; all others say that none was made.
  bool IsDecision() const {
    const auto code = status_.error_code();
    return info_ && (code == grpc::StatusCode::FAILED_PRECONDITION || code == grpc::StatusCode::NOT_FOUND);
  }

  void Explain() const {
    Say("refused " + call_ + ": " + CodeName());
    if (!has_details_) {
      // Not from the server: for people who look for what is wrong with the connection.
      std::cerr << status_.error_message() << std::endl;
      return;
    }
    Say("  message " + details_.message());
    if (info_) {
      std::string text;
      for (const auto& [key, value] : std::map<std::string, std::string>(info_->metadata().begin(), info_->metadata().end())) {
        text += (text.empty() ? ": " : ", ") + key + "=" + value;
      }
      Say("  reason " + info_->reason() + text);
    }
    if (const auto retry = Detail<google::rpc::RetryInfo>()) {
      Say("  retry after " + std::to_string(TimeUtil::DurationToMilliseconds(retry->retry_delay())) + " ms");
    }
    if (const auto failure = Detail<google::rpc::PreconditionFailure>()) {
      for (const auto& each : failure->violations()) Say("  failed " + each.subject() + ": " + each.description());
    }
    if (const auto request = Detail<google::rpc::BadRequest>()) {
      for (const auto& each : request->field_violations()) Say("  field " + each.field() + ": " + each.description());
    }
  }

 private:
  std::string CodeName() const { return google::rpc::Code_Name(static_cast<google::rpc::Code>(status_.error_code())); }

  template <typename Kind>
  std::optional<Kind> Detail() const {
    Kind found;
    for (const auto& each : details_.details()) {
      if (each.UnpackTo(&found)) return found;
    }
    return std::nullopt;
  }

  std::string call_;
  grpc::Status status_;
  bool has_details_ = false;
  google::rpc::Status details_;
  std::optional<google::rpc::ErrorInfo> info_;
};

struct NoEvent : std::exception {
  const char* what() const noexcept override { return "no event"; }
};

struct Options {
  std::string target = "127.0.0.1:7420", sku, order, payment = "ok", tls_ca, tls_name;
  int64_t units = 1, attempt = 1, stock = -1, ttl = 60;
  double deadline = 5;
};

// Every call says who calls, and waits for a server that is away, until its deadline.
void Prepare(grpc::ClientContext& context) {
  context.set_wait_for_ready(true);
  const char* token = std::getenv("HOLDFAST_TOKEN");
  if (token && *token) context.AddMetadata("authorization", std::string("Bearer ") + token);
}

// The events of one order, from now on, in a thread that goes on with its resume token where the stream breaks.
class OrderEvents {
 public:
  OrderEvents(const std::shared_ptr<grpc::Channel>& channel, std::string order)
      : stub_(v1::EventService::NewStub(channel)), order_(std::move(order)), thread_([this] { Follow(); }) {
    try {
      Take();
    } catch (...) {
      Stop();
      throw;
    }
  }

  ~OrderEvents() { Stop(); }

  void PrintUntil(const std::string& last) {
    std::string kind;
    do {
      const auto event = Take();
      kind = v1::EventKind_Name(event.kind()).substr(sizeof("EVENT_KIND_") - 1);
      std::string text = "event " + kind;
      for (const auto& line : event.lines()) text += " " + std::to_string(line.quantity()) + " " + line.sku();
      Say(text);
    } while (kind != last);
  }

 private:
  void Follow() {
    v1::WatchRequest request;
    request.set_reference_prefix(order_);
    for (auto kind : {v1::EVENT_KIND_HELD, v1::EVENT_KIND_CONFIRMED, v1::EVENT_KIND_RELEASED, v1::EVENT_KIND_EXPIRED,
                      v1::EVENT_KIND_REFUSED}) {
      request.add_kinds(kind);
    }
    while (true) {
      grpc::ClientContext context;
      Prepare(context);
      if (!Begin(&context)) return;
      const auto reader = stub_->Watch(&context, request);
      v1::WatchResponse response;
      while (reader->Read(&response)) {
        if (request.resume_token().empty()) Put(v1::Event());
        request.set_resume_token(response.resume_token());
        for (const auto& event : response.events()) {
          // The prefix order-1 is that of order-10 as well.
          if (event.reference() == order_) Put(event);
        }
      }
      const auto status = reader->Finish();
      if (!Begin(nullptr)) return;
      if (status.error_code() != grpc::StatusCode::UNAVAILABLE) {
        Put(Refused("Watch", status));
        return;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
    }
  }

  // Whether to go on: with this stream, which Stop() may end.
  bool Begin(grpc::ClientContext* context) {
    const std::lock_guard lock(mutex_);
    context_ = context;
    return !is_stopped_;
  }

  void Stop() {
    {
      const std::lock_guard lock(mutex_);
      is_stopped_ = true;
      if (context_) context_->TryCancel();
    }
    thread_.join();
  }

  void Put(std::variant<v1::Event, Refused> seen) {
    const std::lock_guard lock(mutex_);
    seen_.push_back(std::move(seen));
    has_seen_.notify_one();
  }

  // An empty event first, once the stream stands.
  v1::Event Take() {
    std::unique_lock lock(mutex_);
    if (!has_seen_.wait_for(lock, kEventTime, [this] { return !seen_.empty(); })) throw NoEvent();
    auto seen = std::move(seen_.front());
    seen_.pop_front();
    if (auto* refused = std::get_if<Refused>(&seen)) throw *refused;
    return std::get<v1::Event>(seen);
  }

  std::unique_ptr<v1::EventService::Stub> stub_;
  const std::string order_;
  std::mutex mutex_;
  std::condition_variable has_seen_;
  std::deque<std::variant<v1::Event, Refused>> seen_;
  grpc::ClientContext* context_ = nullptr;
  bool is_stopped_ = false;
  std::thread thread_;
};

class Checkout {
 public:
  Checkout(std::shared_ptr<grpc::Channel> channel, Options options)
      : channel_(std::move(channel)),
        options_(std::move(options)),
        stock_(v1::StockService::NewStub(channel_)),
        reservations_(v1::ReservationService::NewStub(channel_)) {}

  // The exit status, and the last line.
  std::pair<Exit, std::string> Run() {
    if (options_.stock >= 0) SetStock();
    OrderEvents events(channel_, options_.order);
    Say("watching " + options_.order);
    v1::ReserveResponse held;
    try {
      held = Reserve();
    } catch (const Refused& refused) {
      if (!refused.IsDecision()) throw;
      refused.Explain();
      if (!refused.IsReplay()) events.PrintUntil("REFUSED");
      return {kNotSold, "not sold: " + refused.Reason()};
    }
    if (held.state() == v1::RESERVATION_STATE_CONFIRMED) return {kSold, "sold"};
    if (held.state() != v1::RESERVATION_STATE_HELD) return {kNotSold, "not sold: the hold is " + StateOf(held)};
    // By the server's clock: this machine's may be wrong, so expires_at says nothing here.
    if (TimeUtil::DurationToMilliseconds(held.remaining()) < kPaymentMilliseconds || !IsPaid()) {
      events.PrintUntil(Release(held.reservation_id()));
      return {kNotSold, "not sold: no payment"};
    }
    try {
      Confirm(held.reservation_id());
    } catch (const Refused& refused) {
      if (!refused.IsDecision()) throw;
      refused.Explain();
      Say("refunded");
      events.PrintUntil("EXPIRED");
      return {kNotSold, "not sold: " + refused.Reason()};
    }
    events.PrintUntil("CONFIRMED");
    return {kSold, "sold"};
  }

 private:
  // A call with its deadline. The request has a key or an id, so that it may be sent again as it is.
  template <typename Stub, typename Request, typename Response>
  Response Call(const std::string& name, const std::unique_ptr<Stub>& stub,
                grpc::Status (Stub::*method)(grpc::ClientContext*, const Request&, Response*), const Request& request) {
    for (int number = 1;; number++) {
      grpc::ClientContext context;
      Prepare(context);
      context.set_deadline(std::chrono::system_clock::now() +
                           std::chrono::milliseconds(static_cast<int64_t>(options_.deadline * 1000)));
      Response response;
      const auto status = ((*stub).*method)(&context, request, &response);
      if (status.ok()) return response;
      if (status.error_code() != grpc::StatusCode::DEADLINE_EXCEEDED || number == kTries) throw Refused(name, status);
      Say("again " + name + ": DEADLINE_EXCEEDED");
    }
  }

  void SetStock() {
    v1::AdjustStockRequest request;
    request.set_idempotency_key(options_.order + "/stock");
    request.set_sku(options_.sku);
    request.set_set_on_hand(options_.stock);
    request.set_any_version(true);
    request.set_reason("delivery");
    const auto level = Call("AdjustStock", stock_, &v1::StockService::Stub::AdjustStock, request).stock();
    Say("stock " + level.sku() + ": " + std::to_string(level.on_hand()) + " on hand, " +
        std::to_string(level.available()) + " available");
  }

  v1::ReserveResponse Reserve() {
    v1::ReserveRequest request;
    // The same on every retry of this attempt, another for the customer's next.
    request.set_idempotency_key(options_.order + "/" + std::to_string(options_.attempt));
    request.set_reference(options_.order);
    auto* line = request.add_lines();
    line->set_sku(options_.sku);
    line->set_quantity(options_.units);
    request.mutable_ttl()->set_seconds(options_.ttl);
    const auto held = Call("Reserve", reservations_, &v1::ReservationService::Stub::Reserve, request);
    Say("held " + std::to_string(options_.units) + " " + options_.sku + " (" + StateOf(held) + ")" + Replayed(held));
    return held;
  }

  static std::string StateOf(const v1::ReserveResponse& held) {
    return v1::ReservationState_Name(held.state()).substr(sizeof("RESERVATION_STATE_") - 1);
  }

  template <typename Response>
  static std::string Replayed(const Response& response) {
    return response.replayed() ? ", replayed" : "";
  }

  // True if the customer has paid. A real payment has an idempotency key of its own, too.
  bool IsPaid() const {
    std::string answer = options_.payment;
    if (answer == "ask") {
      Say("payment? ok or declined");
      answer.clear();
      std::getline(std::cin, answer);
    }
    Say(answer == "ok" ? "payment ok" : "payment declined");
    return answer == "ok";
  }

  template <typename Response>
  void Ended(const std::string& word, const Response& response) const {
    int64_t units = 0;
    for (const auto& line : response.reservation().lines()) units += line.quantity();
    Say(word + " " + std::to_string(units) + " " + options_.sku + Replayed(response));
  }

  // How the hold has ended: a refusal says that it fell due before.
  std::string Release(const std::string& id) {
    v1::ReleaseRequest request;
    request.set_reservation_id(id);
    try {
      Ended("released", Call("Release", reservations_, &v1::ReservationService::Stub::Release, request));
      return "RELEASED";
    } catch (const Refused& refused) {
      if (refused.Reason() != "RESERVATION_EXPIRED") throw;
      refused.Explain();
      return "EXPIRED";
    }
  }

  void Confirm(const std::string& id) {
    v1::ConfirmRequest request;
    request.set_reservation_id(id);
    // The money is here: a hold that fell due meanwhile is taken again, if there still is stock.
    request.set_reacquire_if_expired(true);
    Ended("confirmed", Call("Confirm", reservations_, &v1::ReservationService::Stub::Confirm, request));
  }

  std::shared_ptr<grpc::Channel> channel_;
  Options options_;
  std::unique_ptr<v1::StockService::Stub> stock_;
  std::unique_ptr<v1::ReservationService::Stub> reservations_;
};

[[noreturn]] void Usage(const std::string& text) {
  std::cerr << text << "\ncheckout --sku SKU --order ID [--target HOST:PORT] [--units N] [--attempt N] [--stock N]\n"
            << "  [--ttl SECONDS] [--payment ok|declined|ask] [--deadline SECONDS] [--tls-ca FILE] [--tls-name NAME]\n";
  std::exit(kWrongFlags);
}

int64_t Number(const std::string& flag, const char* text) {
  try {
    size_t end = 0;
    const int64_t number = std::stoll(text, &end);
    if (!text[end]) return number;
  } catch (const std::logic_error&) {
  }
  Usage("--" + flag + " is no number");
}

Options Parse(int count, char** arguments) {
  Options options;
  if (const char* target = std::getenv("HOLDFAST_TARGET")) options.target = target;
  if (const char* authority = std::getenv("HOLDFAST_TLS_CA")) options.tls_ca = authority;
  const char* names[] = {"target", "sku", "order", "payment", "tls-ca", "tls-name", "units", "attempt", "stock", "ttl", "deadline"};
  option known[std::size(names) + 1] = {};
  std::transform(std::begin(names), std::end(names), known, [](const char* name) { return option{name, required_argument, nullptr, 0}; });
  int found = 0, at = 0;
  while ((found = getopt_long(count, arguments, "", known, &at)) != -1) {
    if (found) Usage("a wrong flag");
    const std::string name = names[at];
    if (name == "target") options.target = optarg;
    if (name == "sku") options.sku = optarg;
    if (name == "order") options.order = optarg;
    if (name == "payment") options.payment = optarg;
    if (name == "tls-ca") options.tls_ca = optarg;
    if (name == "tls-name") options.tls_name = optarg;
    if (name == "units") options.units = Number(name, optarg);
    if (name == "attempt") options.attempt = Number(name, optarg);
    if (name == "stock") options.stock = Number(name, optarg);
    if (name == "ttl") options.ttl = Number(name, optarg);
    if (name == "deadline") options.deadline = std::strtod(optarg, nullptr);
  }
  if (optind < count || options.sku.empty() || options.order.empty()) Usage("--sku and --order are needed");
  if (options.payment != "ok" && options.payment != "declined" && options.payment != "ask") {
    Usage("--payment is ok, declined or ask");
  }
  if (!(options.deadline > 0)) Usage("--deadline is in seconds, above 0");
  return options;
}

std::shared_ptr<grpc::Channel> Connect(const Options& options) {
  grpc::ChannelArguments settings;
  settings.SetServiceConfigJSON(kRetryPolicy);
  settings.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 30'000);
  if (!options.tls_name.empty()) settings.SetSslTargetNameOverride(options.tls_name);
  if (options.tls_ca.empty()) return grpc::CreateCustomChannel(options.target, grpc::InsecureChannelCredentials(), settings);
  std::ifstream file(options.tls_ca);
  if (!file) Usage("--tls-ca: " + options.tls_ca + " cannot be read");
  grpc::SslCredentialsOptions trust;
  trust.pem_root_certs.assign(std::istreambuf_iterator<char>(file), {});
  return grpc::CreateCustomChannel(options.target, grpc::SslCredentials(trust), settings);
}

}  // namespace

int main(int count, char** arguments) {
  const auto options = Parse(count, arguments);
  std::pair<Exit, std::string> result;
  try {
    result = Checkout(Connect(options), options).Run();
  } catch (const Refused& refused) {
    refused.Explain();
    result = {kFailed, "failed: " + refused.Reason()};
  } catch (const NoEvent& error) {
    result = {kFailed, std::string("failed: ") + error.what()};
  }
  Say(result.second);
  return result.first;
}
