// The system's OpenSSL, version 3.0 or newer, and functions for those of its calls that are macros: Swift
// sees no macros with arguments. Nothing here decides anything.
#ifndef HOLDFAST_OPENSSL_SHIM_H
#define HOLDFAST_OPENSSL_SHIM_H

#include <openssl/bio.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>

// 1, or 0 where the library cannot do these versions.
static inline int hf_ssl_ctx_set_versions(SSL_CTX *context, int lowest, int highest) {
  return SSL_CTX_set_min_proto_version(context, lowest) == 1 &&
         SSL_CTX_set_max_proto_version(context, highest) == 1;
}

// What every connection wants: see TLSContext.swift for the reasons.
static inline void hf_ssl_ctx_set_common(SSL_CTX *context) {
  SSL_CTX_set_options(context, SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
  SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
  // OpenSSL 3.0 retries a handshake record of its own accord with this; it must not block for one.
  SSL_CTX_clear_mode(context, SSL_MODE_AUTO_RETRY);
  SSL_CTX_set_read_ahead(context, 1);
}

static inline void hf_ssl_ctx_prefer_server_ciphers(SSL_CTX *context) {
  SSL_CTX_set_options(context, SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA);
}

static inline void hf_ssl_ctx_set_session_cache(SSL_CTX *context, long mode) {
  SSL_CTX_set_session_cache_mode(context, mode);
}

static inline void hf_ssl_ctx_limit_certificates(SSL_CTX *context, long bytes) {
  SSL_CTX_set_max_cert_list(context, bytes);
}

// Makes it HMAC with SHA-256 and this key. 1, or 0 without memory.
static inline int hf_mac_set_sha256_key(EVP_MAC_CTX *context, const void *key, size_t length) {
  OSSL_PARAM parameters[] = {
      OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, (void *)key, length),
      OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, (char *)"SHA256", 0),
      OSSL_PARAM_construct_end()};
  return EVP_MAC_CTX_set_params(context, parameters) == 1;
}

static inline int hf_ssl_ctx_add_chain_certificate(SSL_CTX *context, X509 *certificate) {
  return SSL_CTX_add1_chain_cert(context, certificate) == 1;
}

static inline int hf_ssl_set_server_name(SSL *ssl, const char *name) {
  return SSL_set_tlsext_host_name(ssl, name) == 1;
}

static inline void hf_bio_retry_read(BIO *bio) { BIO_set_retry_read(bio); }
static inline void hf_bio_retry_write(BIO *bio) { BIO_set_retry_write(bio); }
static inline void hf_bio_clear_retry(BIO *bio) { BIO_clear_retry_flags(bio); }

static inline int hf_err_library(unsigned long code) { return ERR_GET_LIB(code); }
static inline int hf_err_reason(unsigned long code) { return ERR_GET_REASON(code); }
static inline int hf_err_is_system(unsigned long code) { return ERR_SYSTEM_ERROR(code) != 0; }

static inline int hf_general_names_count(const GENERAL_NAMES *names) {
  return sk_GENERAL_NAME_num(names);
}

// The text of name `index` where it is of `type` and that type is a text; otherwise null.
static inline const ASN1_STRING *hf_general_name_text(
    const GENERAL_NAMES *names, int index, int type) {
  const GENERAL_NAME *name = sk_GENERAL_NAME_value(names, index);
  if (name == NULL || name->type != type) return NULL;
  if (type == GEN_URI) return name->d.uniformResourceIdentifier;
  if (type == GEN_DNS) return name->d.dNSName;
  return NULL;
}

#endif
