openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 3650 -subj "/CN=replay CA" -keyout ca.key -out ca.pem
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc -days 365 -subj "/CN=replay" -CA ca.pem -CAkey ca.key -addext "basicConstraints=critical,CA:FALSE" -addext "subjectAltName=DNS:localhost,IP:127.0.0.1" -keyout server.key -out server.pem
(umask 077; openssl rand -hex 32 > token; sed 's/^/write /' token > tokens)
replayring serve --data-dir ./replay --listen 0.0.0.0:50051 --tls-cert server.pem --tls-key server.key --token-file tokens
