// A receiver as a team would write it in Go: one statement for each report, an upsert and a row of
// history, over 16 connections.
package main

import (
	"database/sql"
	"log"
	"net/http"
	"os"
	"strconv"

	_ "github.com/lib/pq"
)

const connections = 16

const record = `
WITH history AS (
    INSERT INTO naive_reports (message_id, recipient, status, statuscode, errcode, network)
    VALUES ($1, $2, $3, $4, $5, $6)
)
INSERT INTO naive_deliveries (message_id, recipient, status, statuscode, errcode, network)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (message_id, recipient) DO UPDATE SET status = excluded.status,
    statuscode = excluded.statuscode, errcode = excluded.errcode, network = excluded.network`

func main() {
	database, err := sql.Open("postgres", os.Getenv("BENCH_DATABASE_URL"))
	if err != nil {
		log.Fatal(err)
	}
	database.SetMaxOpenConns(connections)
	database.SetMaxIdleConns(connections)
	statement, err := database.Prepare(record)
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/callback/paasoo/", func(answer http.ResponseWriter, request *http.Request) {
		query := request.URL.Query()
		status, err := strconv.Atoi(query.Get("status"))
		if err != nil || query.Get("messageid") == "" || query.Get("to") == "" {
			http.Error(answer, "invalid", http.StatusBadRequest)
			return
		}
		_, err = statement.Exec(query.Get("messageid"), query.Get("to"), status,
			query.Get("statuscode"), query.Get("errcode"), query.Get("network"))
		if err != nil {
			http.Error(answer, "unavailable", http.StatusServiceUnavailable)
			return
		}
		answer.Write([]byte("OK"))
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Args[1], nil))
}
